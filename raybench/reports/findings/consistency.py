"""How consistent rankings are over datasets, models, speed-ups and seeds: mean Kendall's tau with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import pandas as pd

from raybench.errors import counted
from raybench.reports.findings.answer import Answer
from raybench.reports.findings.places import strength
from raybench.reports.statistics.agreement import mean_agreement

TITLE = "Consistency of rankings"
CLAIM = (
    "For one model the ranking of methods is much the same on different datasets, so that a small dataset can screen "
    "methods for a large one."
)
COLUMNS = ("rankings that differ in", "pairs", "mean tau", "low", "high")
FIXED = ("dataset", "architecture", "recipe", "protocol", "strategy", "speedup_target", "seed")
AXES = {"dataset": ("dataset", "recipe"), "model": ("architecture", "recipe"), "speed-up": ("speedup_target",)}
MOST = 100  # pairs that are looked at, evenly chosen: a store of 10,000 rows has millions of pairs of seeds

Ranking = Mapping[str, float]


def answer(rows: pd.DataFrame) -> Answer:
    """Compare all pairs of rankings that differ in one thing only."""
    asked = rows[rows["speedup_target"].notna()]
    named = asked.assign(architecture=asked["model"].str.removeprefix("cifar-"))  # one net for two image sizes
    table, sentences = [], []
    for name in (*AXES, "seed"):
        pairs = list(_pairs(named, name))
        kept = [pairs[i * len(pairs) // MOST] for i in range(MOST)] if len(pairs) > MOST else pairs
        found = mean_agreement(kept)
        if found.tau is None:
            sentences.append(f"nothing can be said about {name}s: {_missing(len(pairs))}")
            continue
        table.append((name, len(pairs), round(found.tau, 2), round(found.low or 0, 2), round(found.high or 0, 2)))
        open_ = "; its interval holds zero, so there may be none" if (found.low or 0) <= 0 else ""
        sentences.append(
            f"over {name}s the agreement is {strength(found.tau)} (tau {found.tau:.2f}, "
            f"{found.low:.2f} to {found.high:.2f}, {counted(len(pairs), 'pair')}){open_}"
        )
    text = "; ".join(sentences)
    return Answer(f"{text[:1].upper()}{text[1:]}.", COLUMNS, tuple(table))


def _missing(pairs: int) -> str:
    return "no two rankings differ in that alone" if not pairs else "too few methods in common, or all equal"


def _pairs(rows: pd.DataFrame, axis: str) -> Iterator[tuple[Ranking, Ranking]]:
    """Rankings that are equal in all but `axis`; seeds are averaged unless they are the axis."""
    moving = AXES.get(axis, ("seed",))
    fixed = [name for name in FIXED if name not in moving and (name != "seed" or axis == "seed")]
    means = rows.groupby([*fixed, *moving, "label"])["metric_final"].mean().round(9)
    rankings: dict[tuple, dict[tuple, dict[str, float]]] = {}
    for key, value in means.items():
        assert isinstance(key, tuple)
        where, there, label = key[: len(fixed)], key[len(fixed) : -1], key[-1]
        rankings.setdefault(where, {}).setdefault(there, {})[label] = float(value)
    for same in rankings.values():
        for (one, first), (other, second) in combinations(sorted(same.items()), 2):
            if one[0] != other[0]:  # the recipe alone is no other dataset or model
                yield first, second
