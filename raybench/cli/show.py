"""`raybench show TRIAL_ID`: prints the full result of one cell and the command that reproduces it."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from raybench.cli.output import print_json
from raybench.cli.results import add_trial, find_store
from raybench.reports.cell_text import as_text
from raybench.reports.reproduce import plugins_of, sweep_of, variables_of
from raybench.storage.base import Storage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_trial(parser, "id of a cell, or its first characters")
    formats = ("table", "json", "yaml")
    parser.add_argument(
        "--format",
        choices=formats,
        default="table",
        help="output format; yaml: a sweep file with this cell only (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Find the cell and print it."""
    store = find_store(args.trial_id, args.results)
    row = store.record(args.trial_id)
    if args.format == "json":
        print_json(row)
    elif args.format == "yaml":
        print(sweep_of(row["trial"]), end="")
    else:
        where = shlex.quote(store.storage.url)
        yaml = f"raybench show {row['trial_id']} --results {where} --format yaml > cell.yaml"
        plugins = "".join(f" --plugin {shlex.quote(file)}" for file in plugins_of(row["trial"], Path()))
        command = f"{yaml} && {variables_of(row['trial'])}raybench run cell.yaml --storage reproduced{plugins}"
        attempts = store.attempts(row["trial_id"])
        print(as_text(row, attempts, command, shutil.get_terminal_size((120, 24)).columns))
        if row["traceback_path"]:
            print(f"\n{_traceback(store.storage, row['traceback_path'])}")
    return 0


def _traceback(storage: Storage, key: str) -> str:
    """The traceback of a failed cell, or where it should be."""
    content = storage.read(key)
    return f"{key} is no longer in {storage.url}" if content is None else content.decode("utf-8", "replace").rstrip()
