"""Does one method win everywhere? Winners of rankings, and how often a method is among the first five."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
FIRST = 5  # places that count as among the first


class Row(NamedTuple):
    """One method, as COLUMNS."""

    method: str
    rankings: int
    won: int
    first: int  # rankings where it is among the first five
    rank: float
    place: float  # mean, in percent; 0 is the best


def answer(rows: pd.DataFrame) -> Answer:
    """Count the first places of each method."""
    criteria = places(rows[rows["regularizer"].isna()])  # as the paper's tables have them; else nothing is left
    found, what = (places(rows), "methods") if criteria.empty else (criteria, "criteria")
    if found.empty:
        return Answer("No ranking here has two methods.")
    table = _table(found)
    total = found.groupby(list(RANKING)).ngroups
    sentence = f"{_winners(table, what, total)}{_norms(table) if found['of'].max() > FIRST else ''}."
    limit = " One ranking can't show whether that holds elsewhere." if total == 1 else ""
    return Answer(f"{sentence}{limit}", COLUMNS, tuple(table))


def _table(found: pd.DataFrame) -> list[Row]:
    """A row for each method, the best mean place first."""
    table = []
    for label, own in found.groupby("label"):
        won, first = int((own["rank"] == 1).sum()), int((own["rank"] <= FIRST).sum())
        place = round(100 * own["share"].mean(), 1)
        table.append(Row(str(label), len(own), won, first, round(own["rank"].mean(), 2), place))
    return sorted(table, key=lambda row: (row.place, row.method))


def _winners(table: Sequence[Row], what: str, total: int) -> str:
    """How many of `what` win the `total` rankings, and which wins most."""
    winners = sorted(((row.won, row.method) for row in table if row.won), reverse=True)
    won, best = winners[0]
    if won == total:
        every = {1: f"the only ranking of {what}", 2: f"both rankings of {what}"}
        return f"{best} wins {every.get(total, f'all {total} rankings of {what}')}"
    several = counted(len(winners), "criterion wins" if what == "criteria" else "method wins", f"{what} win")
    return f"{several} the {total} rankings of {what}, {best} the most: {won}"


def _norms(table: Sequence[Row]) -> str:
    """How often the weight norms are among the first."""
    norms = [row for row in table if row.method in ("magnitude-l1", "magnitude-l2")]
    parts = [f"{row.method} is among the first five in {row.first} of {row.rankings}" for row in norms]
    return f"; {' and '.join(parts)}" if parts else ""
