"""Merges small result files into parts. No row is lost when it is killed or runs beside readers.

The merged part is written and read back before any source is deleted. A kill in between leaves duplicate rows, which
readers drop. A reader that finds a source deleted lists the folder again and finds the part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raybench.errors import UserError
from raybench.results.layout import CELLS, ResultFile
from raybench.results.moved import Moved
from raybench.results.parts import PART_ROWS, write_parts

if TYPE_CHECKING:
    import pyarrow as pa

    from raybench.results.store import Store


@dataclass(frozen=True)
class Compacted:
    """Counts of a finished compaction.

    Attributes:
        files: small files that were merged and deleted.
        parts: files written in their place.
        rows: cells in those parts.
        bad: (key, reason) of unreadable files, which are left as they are.

    Example:
        >>> Compacted(files=40, parts=1, rows=40, bad=()).rows
        40
    """

    files: int
    parts: int
    rows: int
    bad: tuple[tuple[str, str], ...]


def compact(store: Store) -> Compacted:
    """Merge the small files of every dataset and model into parts.

    Failed attempts are not merged: they are few, and only the last one of a cell is read.

    Args:
        store: the store to compact. Other processes may read and write it meanwhile.

    Returns:
        How many files were merged, and which could not be read.

    Raises:
        UserError: something else lies where the folder of cells should be.
        RaybenchError: a part read back differs from the rows written; nothing was deleted then.

    Example:
        >>> import tempfile
        >>> from raybench.results.store import Store
        >>> from raybench.storage.open import open_storage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     compact(Store(open_storage(folder)))
        Compacted(files=0, parts=0, rows=0, bad=())
    """
    if why := store.storage.not_listed(CELLS):
        raise UserError(why)
    folders: dict[str, list[ResultFile]] = {}
    for file in store.listing(CELLS):
        folders.setdefault(file.key.rpartition("/")[0], []).append(file)
    files = parts = rows = 0
    for members in folders.values():
        for sources, table in _batches(store, members):
            if len(sources) > 1:
                written = write_parts(store.storage, store.files, table)
                for source in set(sources) - set(written):
                    store.storage.delete(source)
                files, parts, rows = files + len(sources), parts + len(written), rows + table.num_rows
    return Compacted(files, parts, rows, tuple(sorted(store.files.bad.items())))


def _batches(store: Store, members: list[ResultFile]) -> Iterator[tuple[list[str], pa.Table]]:
    """(keys of the files, their rows without duplicates), about PART_ROWS rows at a time."""
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
        except Moved:  # another compaction has merged this file; its part holds the rows
            continue
        if found and file.key not in store.files.bad:  # one with a damaged row is left as it is
            keys, tables = [*keys, file.key], [*tables, *found]
        if sum(table.num_rows for table in tables) >= PART_ROWS:
            yield merged()
            keys, tables = [], []
    if tables:
        yield merged()
