"""Local against global against protected global ranking at each speed-up, on the same cells."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from raybench.errors import counted
from raybench.reports.findings.answer import Answer, figures
from raybench.reports.statistics.intervals import Difference, paired

TITLE = "Local, global, protected global"
CLAIM = (
    "Protected global ranking is like global ranking at low speed-ups and much better at high ones, where global "
    "ranking can empty a layer."
)
COLUMNS = ("comparison", "target", "cells", "models", "mean, points", "low", "high", "verdict")
CELL = ("dataset", "model", "protocol", "recipe", "label", "speedup_target", "seed", "base_seed")
ORDER = ("protected-global", "global", "local", "isomorphic", "optimal", "optimal-blocks")


def answer(rows: pd.DataFrame) -> Answer:
    """Differences of strategies on the same cells, averaged for each dataset and model, which are the units."""
    asked = rows[rows["speedup_target"].notna()]
    wide = asked.pivot_table(index=list(CELL), columns="strategy", values="metric_final", aggfunc="mean")
    names = sorted(wide.columns, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    table, sentences = [], []
    for first, second in combinations(names, 2):
        both = wide[[first, second]].dropna()
        means = both.groupby(level=["dataset", "model", "speedup_target"]).mean()
        for speedup, own in means.groupby(level="speedup_target"):
            cells = int((both.index.get_level_values("speedup_target") == speedup).sum())
            found = paired(list(own[first]), list(own[second]))
            table.append((f"{first} - {second}", f"{speedup:g}x", cells, found.n, *figures(found)))
            sentences.append(_sentence(first, second, f"{speedup:g}x", found))
    if not sentences:
        return Answer(f"Nothing can be said: {_only(names)}.")
    few = any(row[3] < 3 for row in table)
    limit = " With fewer than three pairs of dataset and model a difference has no interval." if few else ""
    text = "; ".join(sentences)
    return Answer(f"{text[0].upper()}{text[1:]}.{limit}", COLUMNS, tuple(table))


def _sentence(first: str, second: str, at: str, found: Difference) -> str:
    side = "above" if found.mean >= 0 else "below"
    doubt = {"equivalent": ", equivalent", "undecided": ", not decided", None: ""}.get(found.verdict, ", clear")
    return f"at {at} {first} is {abs(found.mean):.2f} points {side} {second} ({counted(found.n, 'model')}{doubt})"


def _only(names: list[str]) -> str:
    return f"all cells have the strategy {names[0]}" if len(names) == 1 else "no two strategies share a cell"
