"""Cost against gain: what a step and a sparsifying epoch take, and whether costly methods rank higher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from raybench.reports.findings.answer import Answer
from raybench.reports.findings.places import places, strength
from raybench.reports.statistics.agreement import agreement

TITLE = "Cost against gain"
CLAIM = (
    "Sparsifying costs far more time than scoring; criteria that look at data one sample at a time are slow, and "
    "cheap weight norms do about as well."
)
COLUMNS = ("method", "step, x cheapest", "step, s", "reg epoch, s", "mean place, %")
UNTIMED = "–"


class Row(NamedTuple):
    """One method, as COLUMNS; `reg_s` is UNTIMED where no regularizer was timed."""

    label: str
    factor: float
    step_s: float
    reg_s: float | str
    place: float


def answer(rows: pd.DataFrame) -> Answer:
    """Median times of each method relative to the cheapest one of the same model, beside its mean place."""
    found = places(rows)
    timed = rows[rows["step_time_s"].notna() & rows["speedup_target"].notna()]
    if found.empty or timed.empty:
        return Answer("Nothing can be said: no ranking, or no step times.")
    table = _table(timed, found.groupby("label")["share"].mean())
    return Answer(f"{_steps(table)} {_epochs(timed)}", COLUMNS, tuple(table))


def _table(timed: pd.DataFrame, share: pd.Series) -> list[Row]:
    """A row for each method of `share` (its mean place, 0 to 1), the best place first."""
    cheapest = timed.groupby(["dataset", "model", "label"])["step_time_s"].median().groupby(level=[0, 1]).min()
    keys = pd.MultiIndex.from_frame(timed[["dataset", "model"]])
    relative = timed.assign(factor=timed["step_time_s"].to_numpy() / cheapest.reindex(keys).to_numpy())
    table: list[Row] = []
    for label, own in relative.groupby("label"):
        if label in share.index:
            reg = own["reg_time_s"].dropna().median()
            reg_s = UNTIMED if pd.isna(reg) else _rounded(reg)
            factor, step_s = _rounded(own["factor"].median()), _rounded(own["step_time_s"].median())
            table.append(Row(str(label), factor, step_s, reg_s, round(100 * share[label], 1)))
    return sorted(table, key=lambda row: (row.place, row.label))


def _rounded(value: float) -> float:
    """`value` with three digits."""
    return float(f"{value:.3g}")


def _steps(table: Sequence[Row]) -> str:
    """How much the slowest step takes, and whether methods with slow steps have the better places."""
    plain = [row for row in table if row.reg_s == UNTIMED]
    linked = agreement({row.label: row.factor for row in plain}, {row.label: -row.place for row in plain})
    slowest = max(table, key=lambda row: row.factor)
    sentence = f"A step of {slowest.label} takes {_times(slowest.factor)} times that of the cheapest criterion. "
    if linked.tau is None or linked.low is None or linked.high is None:
        return sentence + "Too few criteria to say whether costly ones rank higher."
    if linked.low > 0:
        return sentence + f"Costlier criteria rank higher ({strength(linked.tau)} agreement, tau {linked.tau:.2f})."
    return sentence + (
        f"Cost does not buy a better place that this data could show (tau of cost and place {linked.tau:.2f}, "
        f"{linked.low:.2f} to {linked.high:.2f})."
    )


def _epochs(timed: pd.DataFrame) -> str:
    """How much an epoch with a regularizer takes."""
    regs = timed[timed["reg_time_s"].notna()]
    if regs.empty:
        return "No regularizer was timed."
    ratio = (regs["reg_time_s"] / regs["step_time_s"]).median()
    return f"A sparsifying epoch takes {_times(ratio)} times a scoring step (median)."


def _times(factor: float) -> str:
    """A factor with three digits, never as a power of ten.

    Example:
        >>> _times(2041.3), _times(17.52)
        ('2,040', '17.5')
    """
    return f"{float(f'{factor:.3g}'):,.0f}" if factor >= 1000 else f"{factor:.3g}"
