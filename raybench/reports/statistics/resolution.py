"""How many seeds a wished resolution needs: the half-width of the interval of a same-seed difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raybench.reports.statistics.intervals import CONFIDENCE, FEWEST, half_width

MOST = 10_000


def seeds_needed(spread: float, resolution: float, confidence: float = CONFIDENCE) -> int | None:
    """The fewest seeds, at least three, whose t interval is not wider than ±`resolution`; None above 10,000.

    Args:
        spread: standard deviation of same-seed differences of two methods, in points.
        resolution: wished half-width of the interval, in points.
        confidence: of the interval.

    Example:
        >>> [seeds_needed(0.4, points) for points in (1.0, 0.5, 0.3)]
        [3, 5, 10]
    """
    if resolution <= 0:
        raise ValueError("resolution: expected more than 0 points")
    fits = (n for n in range(FEWEST, MOST + 1) if half_width(spread, n, confidence) <= resolution)
    return next(fits, None)


def pooled_spread(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation within groups: root of all squared deviations over all degrees of freedom; None without any.

    Example:
        >>> pooled_spread([[1.0, 3.0], [10.0, 12.0], [5.0]])
        1.4142135623730951
    """
    squares, freedom = 0.0, 0
    for group in groups:
        if len(group) > 1:
            mean = sum(group) / len(group)
            squares += sum((value - mean) ** 2 for value in group)
            freedom += len(group) - 1
    return (squares / freedom) ** 0.5 if freedom else None
