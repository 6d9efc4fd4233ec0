"""Shared by the verbs that read results: the RESULTS argument, opening the store, a hint to compact it."""

from __future__ import annotations

import argparse
import sys

from raybench.results.store import Store
from raybench.storage.open import open_existing

MANY_FILES = 300  # each takes about 2 ms to open


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the argument RESULTS."""
    parser.add_argument("results", metavar="RESULTS", help="storage of a run: the folder or URL given as --storage")


def open_store(url: str) -> Store:
    """The store at `url`; nothing is created. UserError for a local folder that doesn't exist."""
    return Store(open_existing(url))


def hint_to_compact(store: Store) -> None:
    """Print a hint on standard error when many small files make reading slow."""
    count = store.uncompacted()
    if count > MANY_FILES:
        print(
            f"hint: {count} uncompacted files; `raybench compact {store.storage.url}` makes this fast", file=sys.stderr
        )
