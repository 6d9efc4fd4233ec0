"""Criteria with and without a regularizer, in pairs of the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from raybench.errors import counted
from raybench.reports.findings.answer import Answer, figures
from raybench.reports.statistics.intervals import paired
from raybench.reports.statistics.signed_ranks import holm, signed_rank_p
from raybench.reports.statistics.win_matrix import refusal
from raybench.reports.text import signed

TITLE = "Regularizers against none"
CLAIM = "Training with a sparsity regularizer before pruning costs far more than it gains."
COLUMNS = ("criterion", "regularizer", "cells", "won", "models", "mean, points", "low", "high", "verdict", "p (Holm)")
CELL = ("dataset", "model", "protocol", "recipe", "strategy", "speedup_target", "importance", "seed", "base_seed")
UNIT = ["dataset", "model"]


class Row(NamedTuple):
    """One criterion with a regularizer, against itself without one; as COLUMNS."""

    criterion: str
    regularizer: str
    cells: int
    won: int
    models: int
    mean: float
    low: float | str
    high: float | str
    verdict: str
    p: str


def answer(rows: pd.DataFrame) -> Answer:
    """Differences of a criterion after and without sparsifying; a dataset with its model is one unit."""
    found = _pairs(rows)
    if not found:
        return Answer("Nothing can be said: no criterion was run with and without a regularizer on the same cell.")
    units = [own.groupby(level=UNIT).mean() for _, _, own in found]
    fewest = min(len(unit) for unit in units)
    reason = refusal(fewest, len(found), "pairs of dataset and model")
    ps = [signed_rank_p(list(unit.iloc[:, 0] - unit.iloc[:, 1])) for unit in units]
    adjusted = [f"{p:.3g}" for p in holm(ps)] if reason is None else ["refused"] * len(ps)
    table = []
    for (importance, name, own), unit, p in zip(found, units, adjusted, strict=True):
        gain = paired(list(unit[name]), list(unit[""]))
        won = int((own[name] > own[""]).sum())
        table.append(Row(importance, name, len(own), won, gain.n, *figures(gain), p))
    refused = f" No p-values: {reason}." if reason else ""
    return Answer(f"{_sentence(table)}{refused}", COLUMNS, tuple(table))


def _pairs(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(criterion, regularizer, metric of cells that were run both ways: a column for it and one for none, "")."""
    asked = rows[rows["speedup_target"].notna()].assign(regularizer=rows["regularizer"].fillna(""))
    wide = asked.pivot_table(index=list(CELL), columns="regularizer", values="metric_final", aggfunc="mean")
    if "" not in wide.columns:
        return []
    return [
        (str(importance), name, own)
        for name in wide.columns
        if name
        for importance, own in wide[[name, ""]].dropna().groupby(level="importance")
    ]


def _sentence(table: Sequence[Row]) -> str:
    best = max(table, key=lambda row: row.mean)
    parts = [
        f"{row.criterion}+{row.regularizer} {signed(row.mean)} ({row.won} of {row.cells} cells won)" for row in table
    ]
    better = sum(row.verdict == "better" for row in table)
    gain = f"the largest gain is {best.criterion}+{best.regularizer}" if best.mean > 0 else "none gains on the mean"
    return (
        f"Mean difference to the same criterion alone, in points: {', '.join(parts)}. "
        f"{counted(better, 'pair is', 'pairs are')} better by more than the region of equivalence; {gain}."
    )
