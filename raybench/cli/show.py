"""`raybench show TRIAL_ID`: prints the full result of one cell and the command that reproduces it."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from raybench.cli.output import print_json
from raybench.cli.results import open_store
from raybench.errors import UserError
from raybench.reports.cell_text import as_text
from raybench.reports.reproduce import sweep_of
from raybench.results.layout import ATTEMPTS, CELLS
from raybench.results.store import Store


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("trial_id", metavar="TRIAL_ID", help="id of a cell, or its first characters")
    parser.add_argument(
        "--results", metavar="DIR", help="storage of the run (default: those in the current folder and one level below)"
    )
    formats = ("table", "json", "yaml")
    parser.add_argument(
        "--format",
        choices=formats,
        default="table",
        help="output format; yaml: a sweep file with this cell only (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Find the cell and print it."""
    store = _find_store(args.trial_id, args.results)
    row = store.record(args.trial_id)
    if args.format == "json":
        print_json(row)
    elif args.format == "yaml":
        print(sweep_of(row["trial"]), end="")
    else:
        where = shlex.quote(store.storage.url)
        yaml = f"raybench show {row['trial_id']} --results {where} --format yaml > cell.yaml"
        command = f"{yaml} && raybench run cell.yaml --storage reproduced"
        attempts = store.attempts(row["trial_id"])
        print(as_text(row, attempts, command, shutil.get_terminal_size((120, 24)).columns))
    return 0


def _find_store(trial_id: str, url: str | None) -> Store:
    """The store at `url`; without one, the store in or below the current folder that has the trial."""
    if url is not None:
        return open_store(url)
    stores = [open_store(str(folder)) for folder in _stores_here()]
    if not stores:
        raise UserError("found no results in this folder; expected --results DIR, the --storage of a run")
    matching = [store for store in stores if any(known.startswith(trial_id) for known in store.statuses())]
    if len(matching) > 1:
        urls = ", ".join(store.storage.url for store in matching)
        raise UserError(f"trial id {trial_id!r} is in {urls}: choose one with --results DIR")
    return (matching or stores)[0]


def _stores_here() -> list[Path]:
    folders = [Path(), *sorted(Path().glob("*/")), *sorted(Path("results").glob("*/"))]
    return [folder for folder in folders if (folder / CELLS).is_dir() or (folder / ATTEMPTS).is_dir()]
