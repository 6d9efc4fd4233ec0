"""All pairs of methods: wins, losses, mean difference, and Wilcoxon's test adjusted for the number of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from raybench.reports.statistics.intervals import EQUIVALENT
from raybench.reports.statistics.samples import Samples
from raybench.reports.statistics.signed_ranks import holm, pairs_needed, signed_rank_p, smallest_p

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """One method against another over the units that both have. Differences in points, first minus second."""

    first: str
    second: str
    wins: int  # units in which the first is better by more than the region of equivalence
    losses: int
    equal: int
    mean: float
    p: float | None  # None where no p-value below the level can be reached
    adjusted: float | None  # by Holm, for all pairs of the matrix


@dataclass(frozen=True)
class WinMatrix:
    """Every pair once. `methods` are ordered by their mean metric, the best first."""

    methods: tuple[str, ...]
    pairs: tuple[Comparison, ...]
    unit: str  # what wins are counted in
    units: int
    equivalent: float
    reason: str | None  # why there are no p-values

    def between(self, first: str, second: str) -> Comparison:
        """The comparison of two methods, seen from the first.

        Raises:
            KeyError: no such pair.
        """
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.second, pair.first) == (first, second):
                turned = (pair.losses, pair.wins, pair.equal, -pair.mean, pair.p, pair.adjusted)
                return Comparison(first, second, *turned)
        raise KeyError((first, second))


def win_matrix(found: Samples, *, equivalent: float = EQUIVALENT, level: float = LEVEL) -> WinMatrix:
    """Compare all pairs of methods.

    With several blocks a unit is a block's mean over seeds: seeds of one dataset and model are no independent
    evidence about methods on others. p-values are refused, with the reason, where all differences having one sign
    would not bring the smallest adjusted one below `level`: five seeds never do.

    Args:
        found: what is compared.
        equivalent: a smaller difference is neither a win nor a loss, in points.
        level: that an adjusted p-value must be able to reach.

    Example:
        >>> from raybench.reports.statistics.samples import samples
        >>> seeds = [(s, 0) for s in range(5)]
        >>> cells = {("digits", "net"): {"a": dict.fromkeys(seeds, 91.0), "b": dict.fromkeys(seeds, 90.0)}}
        >>> found = win_matrix(samples(cells))
        >>> found.pairs[0].wins, found.reason
        (5, '5 seeds and 1 comparison reach p = 0.0625 at best: 6 seeds are needed for one below 0.05')
    """
    if len(found.methods) < 2:
        return WinMatrix(found.methods, (), found.unit, 0, equivalent, "fewer than two methods: nothing to compare")
    units = np.round(found.units, 9)
    order = sorted(range(len(found.methods)), key=lambda i: (-round(units[i].mean(), 9), found.methods[i]))
    pairs = [(a, b, units[a] - units[b]) for a, b in combinations(order, 2)]
    reason = refusal(units.shape[1], len(pairs), found.unit, level)
    ps = [None if reason else signed_rank_p(difference) for _, _, difference in pairs]
    adjusted = [None] * len(ps) if reason else list(holm([p for p in ps if p is not None]))
    compared = tuple(
        Comparison(
            found.methods[a],
            found.methods[b],
            int((difference > equivalent).sum()),
            int((difference < -equivalent).sum()),
            int((np.abs(difference) <= equivalent).sum()),
            float(difference.mean()),
            p,
            corrected,
        )
        for (a, b, difference), p, corrected in zip(pairs, ps, adjusted, strict=True)
    )
    names = tuple(found.methods[i] for i in order)
    return WinMatrix(names, compared, found.unit, units.shape[1], equivalent, reason)


def refusal(units: int, comparisons: int, unit: str = "seeds", level: float = LEVEL) -> str | None:
    """Why no adjusted p-value of `comparisons` tests on `units` pairs can fall below `level`; None if one can."""
    best = min(1.0, comparisons * smallest_p(units))
    if best < level:
        return None
    needed = pairs_needed(comparisons, level)
    noun = "comparison" if comparisons == 1 else "comparisons"
    one = unit.replace("pairs", "pair") if "pairs" in unit else unit.removesuffix("s")
    return (
        f"{units} {one if units == 1 else unit} and {comparisons} {noun} reach p = {best:.3g} at best: "
        f"{needed} {unit} are needed for one below {level:g}"
    )
