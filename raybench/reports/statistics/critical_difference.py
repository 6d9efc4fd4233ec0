"""Mean ranks over blocks with Friedman's test and Nemenyi's critical difference, as Demsar 2006 draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from raybench.errors import counted
from raybench.reports.statistics.samples import Samples
from raybench.reports.statistics.signed_ranks import mean_ranks

FEWEST_BLOCKS = 3
CAVEAT = (
    "Mean ranks depend on which methods are in the pool: adding or removing one can change who is told apart "
    "(Benavoli et al. 2016). The matrix of pairs doesn't."
)


@dataclass(frozen=True)
class CriticalDifference:
    """Mean ranks of methods, the best first. Two whose ranks differ by less than `critical` can't be told apart."""

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    critical: float | None
    p: float | None  # of Friedman's test: all methods are alike
    groups: tuple[tuple[str, ...], ...]  # largest sets within one critical difference, as the bars of the picture
    reason: str | None


def critical_difference(found: Samples, *, level: float = 0.05) -> CriticalDifference:
    """Rank the methods within every unit (`Samples.units`) and compare the mean ranks.

    The critical difference is q sqrt(k (k + 1) / (6 N)) for k methods and N units, q the quantile of Tukey's range for
    infinitely many degrees of freedom over sqrt(2).

    Args:
        found: what is compared.
        level: of Friedman's and Nemenyi's tests.
    """
    if len(found.methods) < 3:
        return _refused(found, f"{counted(len(found.methods), 'method')}: mean ranks are compared from three on")
    units = np.round(found.units, 9)
    k, n = units.shape
    ranks = np.apply_along_axis(mean_ranks, 0, -units)
    means = ranks.mean(axis=1)
    order = sorted(range(k), key=lambda i: (means[i], found.methods[i]))
    names, sorted_means = tuple(found.methods[i] for i in order), tuple(float(means[i]) for i in order)
    if n < FEWEST_BLOCKS:
        reason = f"{n} {found.unit}: no critical difference; {FEWEST_BLOCKS} are needed"
        return CriticalDifference(names, sorted_means, n, None, None, (), reason)
    critical = nemenyi(k, n, level)
    groups = _groups(names, sorted_means, critical)
    return CriticalDifference(names, sorted_means, n, critical, _friedman(ranks), groups, None)


def nemenyi(methods: int, blocks: int, level: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks.

    Example:
        >>> round(nemenyi(12, 9), 2), round(nemenyi(12, 21), 2)
        (5.55, 3.64)
    """
    return _range_quantile(methods, 1 - level) / 2**0.5 * (methods * (methods + 1) / (6 * blocks)) ** 0.5


@cache
def _range_quantile(count: int, level: float) -> float:
    """Quantile of the range of `count` standard normal values: Tukey's for infinitely many degrees of freedom.

    P(range <= q) = count * integral of phi(z) (Phi(z) - Phi(z - q))^(count - 1) over z. scipy's takes half a second.
    """
    from scipy.special import ndtr

    z = np.linspace(-8, 8 + 12, 4001)
    density = np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5
    low, high = 0.0, 12.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        below = count * np.sum(density * (ndtr(z) - ndtr(z - middle)) ** (count - 1)) * (z[1] - z[0])
        low, high = (middle, high) if below < level else (low, middle)
    return low


def _friedman(ranks: np.ndarray) -> float:
    """p-value of Friedman's test, corrected for ties; `ranks` are methods by blocks."""
    from scipy.special import chdtrc

    k, n = ranks.shape
    ties = sum(float((counts**3 - counts).sum()) for counts in (np.unique(r, return_counts=True)[1] for r in ranks.T))
    correction = 1 - ties / (n * k * (k**2 - 1))
    if correction <= 0:
        return 1.0  # every method is equal everywhere
    statistic = (12 / (k * n * (k + 1)) * (ranks.sum(axis=1) ** 2).sum() - 3 * n * (k + 1)) / correction
    return float(chdtrc(k - 1, max(statistic, 0.0)))


def _groups(names: Sequence[str], ranks: Sequence[float], critical: float) -> tuple[tuple[str, ...], ...]:
    """Runs of neighbours within one critical difference; those inside another run are left out."""
    found: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = max(i for i in range(start, len(ranks)) if ranks[i] - ranks[start] <= critical)
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return tuple(tuple(names[start : end + 1]) for start, end in found)


def _refused(found: Samples, reason: str) -> CriticalDifference:
    return CriticalDifference(found.methods, (), len(found.blocks), None, None, (), reason)
