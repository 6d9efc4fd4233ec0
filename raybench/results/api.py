"""Results in a notebook: `raybench.results("runs/quickstart")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from raybench.results.store import Store
from raybench.storage.open import open_storage

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as ds


@overload
def results(
    path: str | Path, *, columns: Sequence[str] | None = None, kind: Literal["frame"] = "frame"
) -> pd.DataFrame: ...


@overload
def results(path: str | Path, *, kind: Literal["dataset"]) -> ds.Dataset: ...


def results(
    path: str | Path, *, columns: Sequence[str] | None = None, kind: Literal["frame", "dataset"] = "frame"
) -> pd.DataFrame | ds.Dataset:
    """Table `trials` of the storage at `path`: one row a cell, the columns of `raybench/results/columns.py`.

    `kind="frame"` reads it as a pandas DataFrame, only `columns` if given (``provenance.torch`` reaches into a
    struct); `kind="dataset"` is a pyarrow dataset that reads what a scan asks for. Files that can't be read are named
    in a StoreWarning; UserError for a store of a newer raybench.
    """
    store = Store(open_storage(path))
    if kind == "dataset":
        from raybench.results.dataset import dataset

        return dataset(store)
    return store.table(columns).to_pandas()
