"""Copies the rows of one store into another. Artifacts, checkpoints and cached stages are not copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raybench.results.arrow import empty
from raybench.results.encoding import encode
from raybench.results.files import concat, first_of_each
from raybench.results.layout import ATTEMPTS, CELLS, ResultFile, attempt_key, cell_key
from raybench.results.schema import row_sha256
from raybench.results.store import ALL_COLUMNS, Store

FEW = 100  # up to this many cells are written as one file each, more as parts


@dataclass(frozen=True)
class Merged:
    """Counts of a finished merge.

    Attributes:
        cells: cells that were copied.
        attempts: failed attempts that were copied.
        known: cells that both stores had; the target's row stays.
        differing: trial ids among the known whose final metric differs.

    Example:
        >>> Merged(cells=3, attempts=0, known=1, differing=()).cells
        3
    """

    cells: int
    attempts: int
    known: int
    differing: tuple[str, ...]


def merge(target: Store, source: Store) -> Merged:
    """Copy every row of `source` that `target` lacks. A second merge copies nothing.

    Args:
        target: the store to write to. Its own rows never change.
        source: the store to read. It is not modified.

    Returns:
        How many cells and failed attempts were copied, and which cells both have with different results.

    Raises:
        UserError: a newer raybench wrote one of the files.

    Example:
        >>> import tempfile
        >>> from raybench.results.store import Store
        >>> from raybench.storage.open import open_storage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     merge(Store(open_storage(f"{folder}/all")), Store(open_storage(f"{folder}/mine")))
        Merged(cells=0, attempts=0, known=0, differing=())
    """
    rows = source.settled(lambda: _cells(source))
    have = target.statuses()
    stale = {trial_id for trial_id, status in have.items() if status == "failed"}
    ids = zip(rows["trial_id"].to_pylist(), rows["status"].to_pylist(), strict=True)
    absent = [i not in have or i in stale or (have[i] == "skipped" and status == "ok") for i, status in ids]
    fresh = rows.filter(pa.array(absent, pa.bool_()))
    _write(target, fresh)
    known = rows.filter(pa.array([not new for new in absent], pa.bool_()))
    differing = _differing(target, known)
    attempts = _attempts(target, source)
    source.files.warn()
    return Merged(fresh.num_rows, attempts, known.num_rows, differing)


def _cells(source: Store) -> pa.Table:
    return first_of_each(concat(source.files.tables(source.listing(CELLS), ALL_COLUMNS), empty(ALL_COLUMNS)))


def _write(target: Store, rows: pa.Table) -> None:
    """Write one file a cell when there are few rows, else parts."""
    if rows.num_rows > FEW:
        target.add(rows)
        return
    for index in range(rows.num_rows):
        one = rows.slice(index, 1)
        target.storage.create(cell_key(one.to_pylist()[0]), encode(one))


def _differing(target: Store, known: pa.Table) -> tuple[str, ...]:
    ours = target.table(["trial_id", "metric_final"])
    mine = dict(zip(ours["trial_id"].to_pylist(), ours["metric_final"].to_pylist(), strict=True))
    theirs = zip(known["trial_id"].to_pylist(), known["metric_final"].to_pylist(), strict=True)
    return tuple(sorted(i for i, metric in theirs if metric is not None and mine.get(i) != metric))


def _attempts(target: Store, source: Store) -> int:
    """Copy failed attempts under the next free number of their cell, except those that the target already has."""
    copied = 0
    for file in source.listing(ATTEMPTS):
        found = _row(source, file)
        if found is None:
            continue
        same = [_row(target, own) for own in target.listing(ATTEMPTS) if own.trial_id == file.trial_id]
        if found not in same:
            number = len(same) + 1
            while not target.storage.create(attempt_key(file.trial_id, number), encode([_numbered(found, number)])):
                number += 1
            copied += 1
    return copied


def _row(store: Store, file: ResultFile) -> dict[str, Any] | None:
    """An attempt without its number and checksum; None when it can't be read."""
    rows = [row for table in store.files.tables([file], ALL_COLUMNS) for row in table.to_pylist()]
    return rows[0] | {"attempt": None, "row_sha256": None} if rows else None


def _numbered(attempt: dict[str, Any], number: int) -> dict[str, Any]:
    row = attempt | {"attempt": number}
    return row | {"row_sha256": row_sha256(row)}
