"""Shared by the verbs that read results: their arguments, opening the store, a hint to compact it, writing -o."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from raybench.errors import UserError
from raybench.results.layout import ATTEMPTS, CELLS
from raybench.results.store import Store
from raybench.storage.open import open_existing

MANY_FILES = 300  # each takes about 2 ms to open


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the argument RESULTS."""
    parser.add_argument("results", metavar="RESULTS", help="storage of a run: the folder or URL given as --storage")


def add_trial(parser: argparse.ArgumentParser, about: str) -> None:
    """Add the argument TRIAL_ID, described by `about`, and the option ``--results`` for the storage that has it."""
    parser.add_argument("trial_id", metavar="TRIAL_ID", help=about)
    text = "storage of the run (default: those in this folder, one level below, in results/ and pruned/)"
    parser.add_argument("--results", metavar="DIR", help=text)


def open_store(url: str) -> Store:
    """The store at `url`; nothing is created. UserError for a local folder that doesn't exist."""
    return Store(open_existing(url))


def find_store(trial_id: str, url: str | None) -> Store:
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
    """Folders of results: this one, those in it, and those in `results/` and `pruned/`."""
    places = [Path(), *(folder for glob in ("*/", "results/*/", "pruned/*/") for folder in sorted(Path().glob(glob)))]
    return [folder for folder in places if (folder / CELLS).is_dir() or (folder / ATTEMPTS).is_dir()]


def hint_to_compact(store: Store) -> None:
    """Print a hint on standard error when many small files make reading slow."""
    count = store.uncompacted()
    if count > MANY_FILES:
        print(
            f"hint: {count} uncompacted files; `raybench compact {store.storage.url}` makes this fast", file=sys.stderr
        )


def write_file(file: Path, content: bytes) -> None:
    """Write what ``-o`` names; UserError when it can't be written."""
    try:
        file.write_bytes(content)
    except OSError as error:
        raise UserError(f"-o {file}: can't be written: {error.strerror or error}") from error
