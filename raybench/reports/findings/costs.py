"""Cost against gain: what a step and a sparsifying epoch take, and whether costly methods rank higher."""

from __future__ import annotations

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


def answer(rows: pd.DataFrame) -> Answer:
    """Median times of each method relative to the cheapest one of the same model, beside its mean place."""
    found = places(rows)
    timed = rows[rows["step_time_s"].notna() & rows["speedup_target"].notna()]
    if found.empty or timed.empty:
        return Answer("Nothing can be said: no ranking, or no step times.")
    cheapest = timed.groupby(["dataset", "model", "importance"])["step_time_s"].median().groupby(level=[0, 1]).min()
    keys = pd.MultiIndex.from_frame(timed[["dataset", "model"]])
    relative = timed.assign(factor=timed["step_time_s"].to_numpy() / cheapest.reindex(keys).to_numpy())
    share = found.groupby("label")["share"].mean()
    table = []
    for label, own in relative.groupby("label"):
        if label in share.index:
            reg = own["reg_time_s"].median()
            figures = (float(f"{own['factor'].median():.3g}"), float(f"{own['step_time_s'].median():.3g}"))
            table.append((label, *figures, "–" if pd.isna(reg) else float(f"{reg:.3g}"), round(100 * share[label], 1)))
    table.sort(key=lambda row: (row[4], row[0]))
    plain = [row for row in table if row[3] == "–"]
    linked = agreement({r[0]: r[1] for r in plain}, {r[0]: -r[4] for r in plain})
    slowest = max(table, key=lambda row: row[1])
    sentence = f"A step of {slowest[0]} takes {_times(slowest[1])} times that of the cheapest criterion. "
    if linked.tau is None or linked.low is None or linked.high is None:
        sentence += "Too few criteria to say whether costly ones rank higher. "
    elif linked.low > 0:
        sentence += f"Costlier criteria rank higher ({strength(linked.tau)} agreement, tau {linked.tau:.2f}). "
    else:
        sentence += (
            f"Cost does not buy a better place that this data could show (tau of cost and place {linked.tau:.2f}, "
            f"{linked.low:.2f} to {linked.high:.2f}). "
        )
    regs = timed[timed["reg_time_s"].notna()]
    if len(regs):
        ratio = (regs["reg_time_s"] / regs["step_time_s"]).median()
        sentence += f"A sparsifying epoch takes {_times(ratio)} times a scoring step (median)."
    else:
        sentence += "No regularizer was timed."
    return Answer(sentence.strip(), COLUMNS, tuple(table))


def _times(factor: float) -> str:
    """A factor with three digits, never as a power of ten.

    Example:
        >>> _times(2041.3), _times(17.52)
        ('2,040', '17.5')
    """
    return f"{float(f'{factor:.3g}'):,.0f}" if factor >= 1000 else f"{factor:.3g}"
