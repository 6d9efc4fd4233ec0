"""raybench show: everything known of one cell, and the command that reproduces it."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from raybench.cli.output import print_json
from raybench.cli.results import open_store, plain_warnings, without_nan, without_pandas
from raybench.errors import UserError
from raybench.results.cell_text import as_text
from raybench.results.layout import ATTEMPTS, CELLS
from raybench.results.reproduce import sweep_of
from raybench.results.store import Store


def arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("trial_id", metavar="TRIAL_ID", help="a trial id, or the beginning of one")
    parser.add_argument(
        "--results", metavar="DIR", help="the --storage of the run (default: the stores in this folder)"
    )
    formats = ("table", "json", "yaml")
    parser.add_argument("--format", choices=formats, default="table", help="yaml prints a sweep of this cell alone")


def run(args: argparse.Namespace) -> int:
    """Find the cell and print it."""
    with plain_warnings(), without_pandas():
        store = _holder(args.trial_id, args.results)
        row = store.record(args.trial_id)
    if args.format == "json":
        print_json(without_nan(row))
    elif args.format == "yaml":
        print(sweep_of(row["trial"]), end="")
    else:
        where = shlex.quote(store.storage.url)
        yaml = f"raybench show {row['trial_id']} --results {where} --format yaml > cell.yaml"
        command = f"{yaml} && raybench run cell.yaml --storage reproduced"
        attempts = store.attempts(row["trial_id"])
        print(as_text(row, attempts, command, shutil.get_terminal_size((120, 24)).columns))
    return 0


def _holder(trial_id: str, url: str | None) -> Store:
    """The store at `url`; without one the store in or below this folder that has the trial."""
    if url is not None:
        return open_store(url)
    stores = [open_store(str(folder)) for folder in _stores_here()]
    if not stores:
        raise UserError("found no results in this folder; expected --results DIR, the --storage of a run")
    having = [store for store in stores if any(i.startswith(trial_id) for i in store.statuses())]
    if len(having) > 1:
        urls = ", ".join(store.storage.url for store in having)
        raise UserError(f"trial id {trial_id!r} is in {urls}: choose one with --results DIR")
    return (having or stores)[0]


def _stores_here() -> list[Path]:
    folders = [Path(), *sorted(Path().glob("*/")), *sorted(Path("results").glob("*/"))]
    return [folder for folder in folders if (folder / CELLS).is_dir() or (folder / ATTEMPTS).is_dir()]
