"""Writes parts (Parquet files of many cells) and verifies each by reading it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raybench.errors import RaybenchError
from raybench.results.encoding import encode
from raybench.results.layout import ResultFile, partition
from raybench.results.looked import forget
from raybench.storage.base import Storage
from raybench.sweep.digests import digest
from raybench.sweep.target import ASKED

if TYPE_CHECKING:
    import pyarrow as pa

    from raybench.results.files import Files

PART_ROWS = 32_768  # bounds the memory of a compaction; a part with at least half as many rows isn't rewritten
ORDER = ("method", "strategy", "recipe", *ASKED, "seed", "trial_id")


def write_parts(storage: Storage, files: Files, table: pa.Table) -> list[str]:
    """Write cells as parts, and read each part back.

    Args:
        storage: where to write.
        files: reader of the same storage.
        table: cells with every column, one row a trial_id.

    Returns:
        Keys of the parts: per dataset and model, at most PART_ROWS rows each.

    Raises:
        RaybenchError: a part read back differs from the rows written.

    Example:
        >>> import tempfile, raybench
        >>> from raybench.results.schema import Record
        >>> from raybench.results.arrow import to_table
        >>> from raybench.results.files import Files
        >>> from raybench.storage.open import open_storage
        >>> row = Record.skipped(raybench.plan_sweep(raybench.load_sweep("quickstart")).trials[0], "no norms")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     storage = open_storage(folder)
        ...     len(write_parts(storage, Files(storage), to_table([row])))
        1
    """
    keys = []
    forget(storage)
    for where, rows in _partitions(table):
        ordered = rows.sort_by([(name, "ascending") for name in ORDER])
        for start in range(0, ordered.num_rows, PART_ROWS):
            piece = ordered.slice(start, PART_ROWS)
            ids = sorted(zip(piece["trial_id"].to_pylist(), piece["status"].to_pylist(), strict=True))
            key = f"{where}/part-{digest(ids)}.parquet"
            storage.create(key, encode(piece))
            if sorted(files.ids(ResultFile(key, "part"))) != ids:
                raise RaybenchError(f"{storage.url}/{key} does not hold the rows just written; nothing was deleted")
            keys.append(key)
    return keys


def _partitions(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    import pyarrow.compute as pc

    pairs = table.group_by(["dataset", "model"]).aggregate([]).to_pylist()
    for pair in sorted(pairs, key=lambda p: (p["dataset"], p["model"])):
        here = pc.and_(pc.equal(table["dataset"], pair["dataset"]), pc.equal(table["model"], pair["model"]))
        yield partition(pair["dataset"], pair["model"]), table.filter(here)
