"""Merging many small files into few, so that no kill and no race loses a row.

Order is all there is to it: the merged part is written and read back before any source is deleted. A kill in between
leaves rows twice, which readers fold; a reader that misses a deleted source lists again and finds the part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raybench.errors import RaybenchError
from raybench.results.layout import CELLS, ResultFile, partition
from raybench.results.moved import Moved
from raybench.spec.trial import digest

if TYPE_CHECKING:
    import pyarrow as pa

    from raybench.results.store import Store

PART_ROWS = 32_768  # bounds the memory of a compaction; a part of half that size or more is left alone
ORDER = ("method", "strategy", "recipe", "speedup_target", "ratio", "seed", "trial_id")


@dataclass(frozen=True)
class Compacted:
    """What a compaction did."""

    files: int  # sources that were merged and deleted
    parts: int  # files they became
    rows: int
    bad: tuple[tuple[str, str], ...]  # (key, reason) of files that could not be read: left where they are


def compact(store: Store) -> Compacted:
    """Merge the small files of every dataset and model. Failed attempts stay: they are few, one is read."""
    folders: dict[str, list[ResultFile]] = {}
    for file in store.listing(CELLS):
        folders.setdefault(file.key.rpartition("/")[0], []).append(file)
    files = parts = rows = 0
    for members in folders.values():
        for sources, table in _batches(store, members):
            if len(sources) > 1:
                written = write_parts(store, table)
                for source in set(sources) - set(written):
                    store.storage.delete(source)
                files, parts, rows = files + len(sources), parts + len(written), rows + table.num_rows
    return Compacted(files, parts, rows, tuple(sorted(store.files.bad.items())))


def write_parts(store: Store, table: pa.Table) -> list[str]:
    """Write a table of cells (every column, one row a trial_id) as parts, read each back, and return their keys."""
    from raybench.results.store import encode

    keys = []
    for where, rows in _partitions(table):
        ordered = rows.sort_by([(name, "ascending") for name in ORDER])
        for start in range(0, ordered.num_rows, PART_ROWS):
            piece = ordered.slice(start, PART_ROWS)
            ids = sorted(zip(piece["trial_id"].to_pylist(), piece["status"].to_pylist(), strict=True))
            key = f"{where}/part-{digest(ids)}.parquet"
            store.storage.create(key, encode(piece))
            if sorted(store.files.ids(ResultFile(key, "part"))) != ids:
                raise RaybenchError(
                    f"{store.storage.url}/{key} does not hold the rows just written; nothing was deleted"
                )
            keys.append(key)
    return keys


def _batches(store: Store, members: list[ResultFile]) -> Iterator[tuple[list[str], pa.Table]]:
    """(keys, their rows, one a trial) for at most about PART_ROWS rows at a time."""
    from raybench.results.files import first_of_each
    from raybench.results.store import ALL_COLUMNS

    def merged() -> tuple[list[str], pa.Table]:
        import pyarrow as pa

        return keys, first_of_each(pa.concat_tables(tables))

    keys: list[str] = []
    tables: list[pa.Table] = []
    for file in members:
        try:
            if file.kind == "part" and len(store.files.ids(file)) >= PART_ROWS // 2:
                continue
            found = store.files.tables([file], ALL_COLUMNS)
        except Moved:  # another compaction was here first; its part holds the rows
            continue
        if found:
            keys, tables = [*keys, file.key], [*tables, *found]
        if sum(table.num_rows for table in tables) >= PART_ROWS:
            yield merged()
            keys, tables = [], []
    if tables:
        yield merged()


def _partitions(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    import pyarrow.compute as pc

    pairs = table.group_by(["dataset", "model"]).aggregate([]).to_pylist()
    for pair in sorted(pairs, key=lambda p: (p["dataset"], p["model"])):
        here = pc.and_(pc.equal(table["dataset"], pair["dataset"]), pc.equal(table["model"], pair["model"]))
        yield partition(pair["dataset"], pair["model"]), table.filter(here)
