"""Rank of each method with an interval, and the group tied with the best: a bootstrap over models and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from raybench.reports.statistics.intervals import CONFIDENCE, FEWEST
from raybench.reports.statistics.samples import Block, Samples

REPLICATES = 2000
DRAWN = 50_000  # ranges, for a quantile within about one percent


@dataclass(frozen=True)
class RankedMethod:
    """One method by its mean metric over blocks, in percent. Ranks count from 1."""

    method: str
    mean: float
    rank: int
    low: int | None  # ends of the interval of the rank; None where none can be given
    high: int | None

    @property
    def tied(self) -> bool | None:
        """Whether it can't be told from the best; None where nothing can be said."""
        return None if self.low is None else self.low == 1


@dataclass(frozen=True)
class RankIntervals:
    """Methods, the best first."""

    methods: tuple[RankedMethod, ...]
    margin: float | None  # points: two methods whose means are further apart differ
    reason: str | None  # why there are no intervals, or what they don't cover

    @property
    def tied(self) -> tuple[str, ...]:
        """Methods that can't be told from the best, itself included; empty where nothing can be said."""
        return tuple(one.method for one in self.methods if one.tied)


def rank_intervals(found: Samples, *, confidence: float = CONFIDENCE, replicates: int = REPLICATES) -> RankIntervals:
    """Ranks by the mean metric, with simultaneous intervals.

    Blocks (dataset and model) are drawn with replacement, and in each drawn block seeds, the same ones for all
    methods. Of n units n - 1 are drawn, so that the variance of a mean is s^2 / n (Rao and Wu 1988). Of each replicate
    the largest error of a difference of two methods is taken; the margin is its quantile, times the ratio of Tukey's
    studentized ranges for the degrees of freedom at hand and for infinitely many. A method's rank goes from one more
    than the number of methods that are better by more than the margin to the number that aren't worse by more than it
    (Mogstad, Romano, Shaikh, Wilhelm 2024): with the given confidence all true ranks lie in their intervals.

    With one block the seeds are the units. At least three units are needed.

    Args:
        found: what is compared.
        confidence: of all intervals together.
        replicates: of the bootstrap, which is seeded.

    Example:
        >>> from raybench.reports.statistics.samples import samples
        >>> seeds = {(s, 0): 0.1 * s for s in range(5)}
        >>> better = {seed: 92 + value for seed, value in seeds.items()}
        >>> other = {seed: 90 - value / 2 for seed, value in seeds.items()}
        >>> found = rank_intervals(samples({("digits", "net"): {"b": other, "a": better}}))
        >>> [(one.method, one.rank, one.low, one.high) for one in found.methods]
        [('a', 1, 1, 1), ('b', 2, 2, 2)]
    """
    means = np.round(found.units.mean(axis=1), 9) if found.blocks else np.zeros(0)
    order = sorted(range(len(means)), key=lambda i: (-means[i], found.methods[i]))
    reason = _refusal(found)
    margin = None if reason else _margin(found, confidence, replicates)
    return RankIntervals(
        tuple(_ranked(found.methods[i], means, i, margin) for i in order), margin, reason or _caveat(found)
    )


def _refusal(found: Samples) -> str | None:
    units = found.units.shape[1] if found.blocks else 0
    if len(found.methods) < 2:
        return "fewer than two methods: nothing to compare"
    if units < FEWEST:
        one = found.unit.replace("pairs", "pair").removesuffix("s")
        return f"{units} {one if units == 1 else found.unit}: no intervals; {FEWEST} are needed"
    return None


def _caveat(found: Samples) -> str | None:
    if len(found.blocks) == 1:
        return "seeds of one dataset and model: the intervals say nothing about others"
    if all(len(block.seeds) == 1 for block in found.blocks):
        return "one seed a cell: the spread over seeds is in the intervals only as far as it differs between blocks"
    return None


def _ranked(method: str, means: np.ndarray, i: int, margin: float | None) -> RankedMethod:
    rank = 1 + int((means > means[i]).sum())
    if margin is None:
        return RankedMethod(method, float(means[i]), rank, None, None)
    low = 1 + int((means - means[i] > margin).sum())
    high = len(means) - int((means[i] - means > margin).sum())
    return RankedMethod(method, float(means[i]), rank, low, high)


def _margin(found: Samples, confidence: float, replicates: int) -> float:
    errors = _replicated(found, replicates) - found.units.mean(axis=1)
    largest = errors.max(axis=1) - errors.min(axis=1)
    freedom = (len(found.methods) - 1) * (found.units.shape[1] - 1)
    return float(np.quantile(largest, confidence)) * _inflation(len(found.methods), freedom, confidence)


def _replicated(found: Samples, replicates: int) -> np.ndarray:
    """Mean metric of each method in each replicate: replicates x methods."""
    draw = np.random.default_rng(0)
    blocks = found.blocks
    if len(blocks) == 1:
        return _seed_means(blocks[0], replicates, draw)
    slots = len(blocks) - 1
    chosen = draw.integers(len(blocks), size=(replicates, slots))
    total = np.zeros((replicates, len(found.methods)))
    for place, block in enumerate(blocks):
        rows, _ = np.nonzero(chosen == place)
        np.add.at(total, rows, _seed_means(block, len(rows), draw))
    return total / slots


def _seed_means(block: Block, replicates: int, draw: np.random.Generator) -> np.ndarray:
    n = block.values.shape[1]
    seeds = draw.integers(n, size=(replicates, max(n - 1, 1)))
    return block.values[:, seeds].mean(axis=2).T


@cache
def _inflation(methods: int, freedom: int, confidence: float) -> float:
    """Tukey's range for so many degrees of freedom over that for infinitely many; simulated: scipy takes 0.4 s."""
    draw = np.random.default_rng(0)
    normal = draw.standard_normal((DRAWN, methods))
    ranges = normal.max(axis=1) - normal.min(axis=1)
    finite = ranges / np.sqrt(draw.chisquare(freedom, DRAWN) / freedom)
    return float(np.quantile(finite, confidence) / np.quantile(ranges, confidence))
