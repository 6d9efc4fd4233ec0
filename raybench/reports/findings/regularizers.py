"""Criteria with and without a regularizer, in pairs of the same cells."""

from __future__ import annotations

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


def answer(rows: pd.DataFrame) -> Answer:
    """Differences of a criterion after and without sparsifying; a dataset with its model is one unit."""
    asked = rows[rows["speedup_target"].notna()].assign(regularizer=rows["regularizer"].fillna(""))
    wide = asked.pivot_table(index=list(CELL), columns="regularizer", values="metric_final", aggfunc="mean")
    names = [name for name in wide.columns if name]
    found = []
    for name in names:
        both = (wide[[name, ""]] if "" in wide.columns else wide[[]]).dropna()
        for importance, own in both.groupby(level="importance"):
            if len(own.columns):
                found.append((importance, name, own))
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
        table.append((importance, name, len(own), won, gain.n, *figures(gain), p))
    best = max(table, key=lambda row: row[5])
    parts = [f"{row[0]}+{row[1]} {signed(row[5])} ({row[3]} of {row[2]} cells won)" for row in table]
    better = [row for row in table if row[8] == "better"]
    sentence = f"Mean difference to the same criterion alone, in points: {', '.join(parts)}. "
    sentence += f"{counted(len(better), 'pair is', 'pairs are')} better by more than the region of equivalence"
    sentence += f"; the largest gain is {best[0]}+{best[1]}" if best[5] > 0 else "; none gains on the mean"
    return Answer(f"{sentence}. {f'No p-values: {reason}.' if reason else ''}".strip(), COLUMNS, tuple(table))
