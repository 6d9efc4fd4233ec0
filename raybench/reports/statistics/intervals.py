"""Paired same-seed differences of two methods: the points, a t interval from three seeds on, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

EQUIVALENT = 0.3  # points: differences below this don't matter in practice
CONFIDENCE = 0.95
FEWEST = 3  # seeds: an interval from two is 9 standard deviations wide on each side

Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Difference:
    """One method minus another over the seeds that both have, in points."""

    points: tuple[float, ...]  # one for each seed
    mean: float
    low: float | None  # ends of the t interval; None with fewer than three seeds
    high: float | None
    verdict: Verdict | None  # None without an interval
    reason: str | None  # why there is no interval

    @property
    def n(self) -> int:
        """Number of seeds that both methods have."""
        return len(self.points)


def paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    equivalent: float = EQUIVALENT,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Compare two methods on the same seeds: mean of the differences, and mean ± t(n-1) s / sqrt(n).

    The verdict follows the whole interval: `better` or `worse` if it lies beyond ±`equivalent`, `equivalent` if it lies
    within, else `undecided`. With `equivalent=0` better and worse are the usual two-sided t test.

    Args:
        first: metric of the first method, one value for each seed.
        second: the same of the second method, in the same order of seeds.
        equivalent: half-width of the region of practical equivalence, in points.
        confidence: of the interval.

    Returns:
        The difference, first minus second.

    Raises:
        ValueError: the two have different lengths, or no seed.

    Example:
        >>> found = paired([91.0, 92.0, 93.0], [90.0, 90.9, 92.2])
        >>> f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}] {found.verdict}"
        '0.97 [0.59, 1.35] better'
        >>> paired([91.0], [90.0]).reason
        'one seed: no interval; 3 are needed'
    """
    if not first:
        raise ValueError("paired: no seed")
    points = tuple(a - b for a, b in zip(first, second, strict=True))
    mean = sum(points) / len(points)
    if len(points) < FEWEST:
        count = "one seed" if len(points) == 1 else "two seeds"
        return Difference(points, mean, None, None, None, f"{count}: no interval; {FEWEST} are needed")
    half = half_width(_spread(points, mean), len(points), confidence)
    return Difference(points, mean, mean - half, mean + half, _verdict(mean - half, mean + half, equivalent), None)


def half_width(spread: float, n: int, confidence: float = CONFIDENCE) -> float:
    """Half the width of a t interval of a mean: t(n-1) s / sqrt(n).

    Args:
        spread: sample standard deviation.
        n: number of values, at least 2.
        confidence: of the interval.

    Example:
        >>> [round(half_width(1.0, n), 2) for n in (2, 3, 5, 10)]
        [8.98, 2.48, 1.24, 0.72]
    """
    return t_quantile(n - 1, confidence) * spread / n**0.5


@cache
def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


def _spread(points: Sequence[float], mean: float) -> float:
    return (sum((point - mean) ** 2 for point in points) / (len(points) - 1)) ** 0.5


def _verdict(low: float, high: float, equivalent: float) -> Verdict:
    if low > equivalent:
        return "better"
    if high < -equivalent:
        return "worse"
    return "equivalent" if -equivalent <= low and high <= equivalent else "undecided"
