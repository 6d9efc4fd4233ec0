"""Does one method win everywhere? Winners of rankings, and how often a method is among the first five."""

from __future__ import annotations

import pandas as pd

from raybench.errors import counted
from raybench.reports.findings.answer import Answer
from raybench.reports.findings.places import RANKING, places

TITLE = "No method wins everywhere"
CLAIM = (
    "No single method is best for all models, datasets and speed-ups; the weight norms (magnitude-l1, magnitude-l2) "
    "are cheap and mostly among the first five."
)
COLUMNS = ("method", "rankings", "won", "in the first 5", "mean rank", "mean place, %")


def answer(rows: pd.DataFrame) -> Answer:
    """Count the first places of each method."""
    criteria = places(rows[rows["regularizer"].isna()])  # as the paper's tables have them; else nothing is left
    found, what = (places(rows), "methods") if criteria.empty else (criteria, "criteria")
    if found.empty:
        return Answer("No ranking here has two methods.")
    total = found.groupby(list(RANKING)).ngroups
    table = []
    for label, own in found.groupby("label"):
        won, top = int((own["rank"] == 1).sum()), int((own["rank"] <= 5).sum())
        table.append((label, len(own), won, top, round(own["rank"].mean(), 2), round(100 * own["share"].mean(), 1)))
    table.sort(key=lambda row: (row[5], row[0]))
    winners = sorted(((row[2], row[0]) for row in table if row[2]), reverse=True)
    best = winners[0]
    if best[0] == total:
        every = {1: f"the only ranking of {what}", 2: f"both rankings of {what}"}
        sentence = f"{best[1]} wins {every.get(total, f'all {total} rankings of {what}')}"
    else:
        several = "criterion wins" if what == "criteria" else "method wins"
        sentence = f"{counted(len(winners), several, f'{what} win')} the {total} rankings of {what}, "
        sentence += f"{best[1]} the most: {best[0]}"
    norms = [row for row in table if row[0] in ("magnitude-l1", "magnitude-l2")]
    small = max(int(found["of"].max()), 0) <= 5
    parts = [f"{row[0]} is among the first five in {row[3]} of {row[1]}" for row in norms]
    norm_text = "" if small or not parts else f"; {' and '.join(parts)}"
    limit = " One ranking can't show whether that holds elsewhere." if total == 1 else ""
    return Answer(f"{sentence}{norm_text}.{limit}", COLUMNS, tuple(table))
