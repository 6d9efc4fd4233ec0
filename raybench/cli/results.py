"""What every verb over a results folder shares. (Not a verb.)"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from raybench.results.store import Store
from raybench.storage.open import open_existing

MANY_FILES = 300  # each takes some 2 ms to open


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
    """The store below `url`; nothing is created. UserError for a local folder that isn't there."""
    return Store(open_existing(url))


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


def hint_to_compact(store: Store) -> None:
    """Say on standard error that many small files make reading slow."""
    count = store.uncompacted()
    if count > MANY_FILES:
        print(
            f"hint: {count} uncompacted files; `raybench compact {store.storage.url}` makes this fast", file=sys.stderr
        )


def without_nan(value: Any) -> Any:
    """JSON has no NaN: a diverged loss becomes null."""
    if isinstance(value, Mapping):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
