"""A leaderboard as flat rows, one per ranked method, for CSV, JSON, Parquet and SQL."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pyarrow as pa

from raybench.reports.leaderboard import Board, Leaderboard, Ranked

_BOARD = ("dataset", "model", "strategy", "protocol", "recipe", "track", "metric_name")
_TEXT = ("method", "importance", "regularizer", "schedule", "timing_reason", "reason", "trial_id", *_BOARD)
_COUNTS = ("rank", "rank_mark", "n")


def rows(found: Leaderboard) -> list[dict[str, Any]]:
    """Every entry with the columns of its board; `speedup_target` is None for an average and for a `ratio`."""
    return [_row(board, entry) for board in found.boards for entry in board.entries]


def table(found: Leaderboard) -> pa.Table:
    """`rows` as an Arrow table, with types that don't depend on the rows."""
    return pa.Table.from_pylist(rows(found), schema=pa.schema([(name, _type(name)) for name in _NAMES]))


def _row(board: Board, entry: Ranked) -> dict[str, Any]:
    average = board.speedup == "average"
    target = {"speedup_target": None if average else board.speedup, "ratio": board.ratio, "average": average}
    own = {f.name: getattr(entry, f.name) for f in fields(Ranked)}
    return {name: getattr(board, name) for name in _BOARD} | target | own


_NAMES = tuple(dict.fromkeys((*_BOARD, "speedup_target", "ratio", "average", *(f.name for f in fields(Ranked)))))


def _type(name: str) -> pa.DataType:
    if name == "seeds":
        return pa.list_(pa.int64())
    if name == "average":
        return pa.bool_()
    return pa.string() if name in _TEXT else pa.int64() if name in _COUNTS else pa.float64()
