"""A store as a pandas DataFrame or a pyarrow dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from raybench.results.store import Store
from raybench.storage.open import open_existing

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as ds


@overload
def load_results(
    path: str | Path, *, columns: Sequence[str] | None = None, kind: Literal["frame"] = "frame"
) -> pd.DataFrame: ...


@overload
def load_results(path: str | Path, *, kind: Literal["dataset"]) -> ds.Dataset: ...


def load_results(
    path: str | Path, *, columns: Sequence[str] | None = None, kind: Literal["frame", "dataset"] = "frame"
) -> pd.DataFrame | ds.Dataset:
    """Table `trials` of the storage at `path`: one row a cell.

    Args:
        path: a results folder, or the address of a bucket (``s3://bucket/prefix``).
        columns: names of `raybench.results.columns` to read, all by default; ``provenance.torch`` reads one field of a
            struct.
        kind: ``frame`` reads everything into a pandas DataFrame; ``dataset`` is a pyarrow dataset, which reads what a
            scan asks for.

    Returns:
        The table. Files that can't be read are left out and named in a `StoreWarning`.

    Raises:
        UserError: there is no such folder, a newer raybench wrote the store, or the address can't be opened.

    Example:
        >>> import tempfile, raybench
        >>> with tempfile.TemporaryDirectory() as folder:  # the --storage of a run
        ...     frame = raybench.load_results(folder, columns=["method", "metric_final"])
        >>> len(frame), list(frame)
        (0, ['method', 'metric_final'])
    """
    store = Store(open_existing(str(path)))
    if kind == "dataset":
        from raybench.results.dataset import dataset

        return dataset(store)
    return store.table(columns).to_pandas()
