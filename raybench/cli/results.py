"""What every verb over a results folder shares. (Not a verb.)"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from raybench.results.store import Store
from raybench.storage.open import open_storage


def add_results(parser: argparse.ArgumentParser) -> None:
    """The positional RESULTS."""
    parser.add_argument("results", metavar="RESULTS", help="the --storage of a run")


class _NoPandas:
    """An import finder that has no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("not needed here", name=name)


@contextmanager
def without_pandas() -> Iterator[None]:
    """Keep Arrow from importing pandas, which it does wherever pandas is, for half a second and no use to a ranking."""
    sys.meta_path.insert(0, _NoPandas)
    try:
        yield
    finally:
        sys.meta_path.remove(_NoPandas)


def open_store(url: str) -> Store:
    """The store below `url`; nothing is created."""
    return Store(open_storage(url))


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Tell warnings of the block as one line each on standard error, without the source line that raised them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for warning in caught:
                print(f"warning: {warning.message}", file=sys.stderr)
