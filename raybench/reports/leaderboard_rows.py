"""A leaderboard as flat rows, one per ranked method, for CSV, JSON, Parquet and SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pyarrow as pa

from raybench.reports.leaderboard import Board, Leaderboard, Ranked
from raybench.sweep.method_label import method_label
from raybench.sweep.target import ASKED

_BOARD = ("dataset", "model", "strategy", "protocol", "recipe", "track", "metric_name")
_TEXT = (
    "method",
    "label",
    "kind",
    "importance",
    "regularizer",
    "schedule",
    "timing_reason",
    "reason",
    "trial_id",
    *_BOARD,
)
_COUNTS = ("rank", "rank_mark", "n")


def rows(found: Leaderboard) -> list[dict[str, Any]]:
    """Every entry with the columns of its board; `speedup_target` is None for an average and other amounts.

    `label` is the method with the parameters that differ from its defaults; `method` has those alone that differ from
    another entry's.
    """
    labels = _labels(found)
    return [_row(board, entry, labels) for board in found.boards for entry in board.entries]


def _labels(found: Leaderboard) -> dict[str, str]:
    """Trial id -> label, of the entries whose trials are known."""
    ids = sorted({entry.trial_id for board in found.boards for entry in board.entries})
    return {trial_id: method_label(trial) for trial_id, trial in found.trials(ids).items()}


def table(found: Leaderboard) -> pa.Table:
    """`rows` as an Arrow table, with types that don't depend on the rows."""
    return pa.Table.from_pylist(rows(found), schema=pa.schema([(name, _type(name)) for name in _NAMES]))


def _row(board: Board, entry: Ranked, labels: Mapping[str, str]) -> dict[str, Any]:
    average = board.speedup == "average"
    target = {**dict(zip(ASKED, board.at or [None] * len(ASKED), strict=True)), "average": average}
    own = {f.name: getattr(entry, f.name) for f in fields(Ranked)}
    own["label"] = labels.get(entry.trial_id, entry.method)
    return {name: getattr(board, name) for name in _BOARD} | target | own


_NAMES = tuple(dict.fromkeys((*_BOARD, *ASKED, "average", *(f.name for f in fields(Ranked)), "label")))


def _type(name: str) -> pa.DataType:
    if name == "seeds":
        return pa.list_(pa.int64())
    if name == "average":
        return pa.bool_()
    return pa.string() if name in _TEXT else pa.int64() if name in _COUNTS else pa.float64()
