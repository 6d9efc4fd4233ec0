"""Rank marks: methods that the spread over seeds can't tell apart share the rank of the best of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

# Two-sided 95 % points of Student's t, by degrees of freedom; above the last one the normal's.
T95 = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
    12: 2.179, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000,
}  # fmt: skip
NORMAL95 = 1.960


def rank_marks(scores: Sequence[tuple[int, float, float | None, int]]) -> Iterator[int]:
    """The rank mark of each method, the best first.

    A method shares the mark of the one above whose mark it is, unless Welch's t-test at 95 % tells the two apart. With
    one seed nothing is known about the spread, and a method keeps its own rank.

    Args:
        scores: (rank, mean, sample standard deviation or None, number of seeds), the best first.

    Example:
        >>> list(rank_marks([(1, 97.0, 0.5, 3), (2, 96.8, 0.4, 3), (3, 90.0, 0.4, 3), (4, 89.0, None, 1)]))
        [1, 1, 3, 4]
    """
    leader: tuple[int, float, float | None, int] | None = None
    for rank, mean, spread, n in scores:
        if leader is None or told_apart(leader[1:], (mean, spread, n)):
            leader = (rank, mean, spread, n)
        yield leader[0]


def told_apart(one: tuple[float, float | None, int], other: tuple[float, float | None, int]) -> bool:
    """Whether two (mean, standard deviation, n) differ by Welch's t-test at 95 %; True where a spread is unknown."""
    (mean_a, spread_a, n_a), (mean_b, spread_b, n_b) = one, other
    if abs(mean_a - mean_b) < 1e-9:
        return False
    if spread_a is None or spread_b is None:
        return True
    a, b = spread_a**2 / n_a, spread_b**2 / n_b
    if a + b == 0:
        return True
    freedom = (a + b) ** 2 / (a**2 / (n_a - 1) + b**2 / (n_b - 1))
    return abs(mean_a - mean_b) > _t95(freedom) * math.sqrt(a + b)


def _t95(freedom: float) -> float:
    """The point for the next smaller tabulated degrees of freedom, which is the larger one."""
    known = [degrees for degrees in T95 if degrees <= freedom + 1e-9]
    return T95[max(known, default=1)] if freedom < 120 else NORMAL95
