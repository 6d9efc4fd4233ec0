"""Copying the rows of one store into another. Artifacts, checkpoints and cached stages stay where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raybench.results.arrow import empty
from raybench.results.files import concat, first_of_each
from raybench.results.layout import ATTEMPTS, CELLS, ResultFile, attempt_key, cell_key
from raybench.results.store import ALL_COLUMNS, Store, encode

FEW = 100  # cells that are worth a file each


@dataclass(frozen=True)
class Merged:
    """What a merge did."""

    cells: int  # copied
    attempts: int  # failed attempts copied
    known: int  # cells that both stores had: the target's row stays
    differing: tuple[str, ...]  # those of them whose final metric is another


def merge(target: Store, source: Store) -> Merged:
    """Copy every row of `source` that `target` lacks. A second merge copies nothing; `source` is only read."""
    rows = source.settled(lambda: _cells(source))
    have = target.statuses()
    stale = {trial_id for trial_id, status in have.items() if status == "failed"}
    ids = zip(rows["trial_id"].to_pylist(), rows["status"].to_pylist(), strict=True)
    absent = [i not in have or i in stale or (have[i] == "skipped" and status == "ok") for i, status in ids]
    fresh = rows.filter(pa.array(absent, pa.bool_()))
    _write(target, fresh)
    known = rows.filter(pa.array([not new for new in absent], pa.bool_()))
    differing = _differing(target, known)
    return Merged(fresh.num_rows, _attempts(target, source), known.num_rows, differing)


def _cells(source: Store) -> pa.Table:
    table = concat(source.files.tables(source.listing(CELLS), ALL_COLUMNS), empty(ALL_COLUMNS))
    source.files.warn()
    return first_of_each(table)


def _write(target: Store, rows: pa.Table) -> None:
    """A file a cell for a few, parts for many."""
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
    """Copy failed attempts under the next free number of their cell, those aside that the target has under any."""
    copied = 0
    for file in source.listing(ATTEMPTS):
        found = _row(source, file)
        if found is None:
            continue
        same = [_row(target, own) for own in target.listing(ATTEMPTS) if own.trial_id == file.trial_id]
        if found not in same:
            number = len(same) + 1
            while not target.storage.create(attempt_key(file.trial_id, number), encode([found | {"attempt": number}])):
                number += 1
            copied += 1
    return copied


def _row(store: Store, file: ResultFile) -> dict[str, Any] | None:
    """An attempt without its number; None when it can't be read."""
    rows = [row for table in store.files.tables([file], ALL_COLUMNS) for row in table.to_pylist()]
    return rows[0] | {"attempt": None} if rows else None
