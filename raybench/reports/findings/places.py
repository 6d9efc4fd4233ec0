"""Places of methods in every ranking of one speed-up, as a frame; and the words for a correlation."""

from __future__ import annotations

import pandas as pd

from raybench.reports.cells import BOARD

RANKING = (*BOARD, "speedup_target")


def places(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a ranking and method: `metric` (mean over seeds), `rank` from 1, `of`, and `share` from 0 to 1, the last.

    Rankings of fewer than two methods are left out.
    """
    asked = rows[rows["speedup_target"].notna()]
    means = asked.groupby([*RANKING, "label", "method", "importance"], sort=True)["metric_final"].mean().round(9)
    found = means.rename("metric").reset_index()
    grouped = found.groupby(list(RANKING))["metric"]
    found["rank"] = grouped.rank(ascending=False, method="min")
    found["of"] = grouped.transform("size")
    found["share"] = (found["rank"] - 1) / (found["of"] - 1)
    return found[found["of"] > 1].reset_index(drop=True)


def strength(tau: float) -> str:
    """A word for a correlation."""
    size = abs(tau)
    word = "strong" if size >= 0.7 else "moderate" if size >= 0.4 else "weak"
    return word if tau > 0 else f"{word} and reversed"
