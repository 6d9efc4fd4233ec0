"""Wilcoxon's signed-rank test, exact, Holm's adjustment, and the p-values that so many pairs can reach."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

ROUNDED = 9  # decimals: differences that are equal but for the last bits are ties


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test, exact also with ties and zeros.

    Zeros take part in the ranking and are dropped after it (Pratt 1959); ties have their mean rank. The distribution
    is that of all 2^m assignments of signs to the m ranks that are left, by convolution. Normal approximations, which
    libraries use for ties, print p-values that so few pairs can't reach.

    Args:
        differences: one for each pair.

    Returns:
        The p-value; 1 if all differences are zero.

    Example:
        >>> signed_rank_p([1.0, 2.0, 3.0, 4.0, 5.0])
        0.0625
    """
    values = np.round(np.asarray(differences, dtype=float), ROUNDED)
    doubled = (2 * mean_ranks(np.abs(values))).astype(int)
    kept = doubled[values != 0]
    if not len(kept):
        return 1.0
    counts = np.ones(1)
    for rank in kept:  # counts[w]: assignments whose positive ranks sum to w; scaled to probabilities
        grown = np.zeros(len(counts) + rank)
        grown[: len(counts)] += counts / 2
        grown[rank:] += counts / 2
        counts = grown
    total, positive = int(kept.sum()), int(doubled[values > 0].sum())
    distance = abs(2 * positive - total)
    away = np.abs(2 * np.arange(total + 1) - total) >= distance
    return min(1.0, float(counts[away].sum()))


def smallest_p(n: int) -> float:
    """The smallest two-sided p-value that `n` pairs can reach: all differences have one sign.

    Example:
        >>> [smallest_p(n) for n in (3, 5, 6)]
        [0.25, 0.0625, 0.03125]
    """
    return min(1.0, 2.0 ** (1 - n))


def pairs_needed(comparisons: int = 1, level: float = 0.05) -> int:
    """The fewest pairs with which one of `comparisons` Holm-adjusted p-values can fall below `level`.

    Example:
        >>> pairs_needed(), pairs_needed(66)
        (6, 12)
    """
    n = 1 + max(0, math.floor(math.log2(comparisons / level)))
    return n if comparisons * smallest_p(n) < level else n + 1


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment of p-values for their number, in the given order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    order = sorted(range(len(ps)), key=lambda place: ps[place])
    adjusted, largest = [0.0] * len(ps), 0.0
    for step, place in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - step) * ps[place]))
        adjusted[place] = largest
    return tuple(adjusted)


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
