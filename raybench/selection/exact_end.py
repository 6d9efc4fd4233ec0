"""The exact end of a selection: from the step in which the target is met to counts that meet it within 0.5 %.

The cost depends on how many units each group keeps, not on which. So the search is over counts: stop inside the
last step, then remove or restore single units, those with scores nearest to the threshold first. Where every group
with cheap units is at its floor, one unit of a costly group is removed and as many cheap ones restored as fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raybench.selection.problem import Problem

CLOSE = 0.001  # the search goes on until the target is met this well, or nothing comes nearer
ENOUGH = 0.005  # a miss above this has a reason in the result
LOOK_BACK = 16  # earlier prefixes of the last step from which the search may start, too


def fill(
    problem: Problem,
    path: np.ndarray,
    order: Sequence[np.ndarray],
    scores: Sequence[np.ndarray | None],
    threshold: np.ndarray,
    target: float,
) -> tuple[np.ndarray, str | None]:
    """Counts (groups,) for `target`, and the reason when they miss it by more than 0.5 %.

    `path`: (n + 1, groups) counts after each candidate of the last step; the last ones meet the target. `order`: units
    of each group, first to be removed first. `threshold`: (groups,) the score up to which units are removed.
    """
    goal = problem.goal(target)
    meets = int(np.argmax(problem.spent(path) <= goal))
    starts = problem.rounded(path[max(0, meets - LOOK_BACK) : meets + 1])[::-1]
    counts, error = _nearest(problem, starts[:2], goal)
    if error > CLOSE:
        counts, error = _improve(problem, starts, goal, _Margins(problem, order, scores, threshold))
    return counts, None if error <= ENOUGH else "granularity"


def _errors(problem: Problem, counts: np.ndarray, goal: float) -> np.ndarray:
    """|achieved / requested speed-up - 1| of each row of counts."""
    return np.abs(goal / problem.meter.of(counts) - 1)


def _nearest(problem: Problem, rows: np.ndarray, goal: float) -> tuple[np.ndarray, float]:
    errors = _errors(problem, rows, goal)
    best = int(np.argmin(errors))
    return rows[best], float(errors[best])


class _Margins:
    """How far a change deviates from rank order: the distance of the changed unit's score from the threshold."""

    def __init__(
        self,
        problem: Problem,
        order: Sequence[np.ndarray],
        scores: Sequence[np.ndarray | None],
        threshold: np.ndarray,
    ) -> None:
        self.sizes, self.order, self.scores = problem.sizes, order, scores
        spare = np.nanmax(threshold) if np.isfinite(threshold).any() else 0.0
        self.threshold = np.where(np.isfinite(threshold), threshold, spare)

    def of(self, before: np.ndarray, after: np.ndarray) -> float:
        """Sum over the groups that differ of the distance of the farthest unit restored or removed."""
        total = 0.0
        for g in map(int, np.nonzero(before != after)[0]):
            place = self.sizes[g] - (max if after[g] > before[g] else min)(before[g], after[g])
            unit = self.order[g][place if after[g] > before[g] else place - 1]
            scores = self.scores[g]
            assert scores is not None  # only scored groups are changed
            total += abs(float(scores[unit]) - self.threshold[g])
        return total


def _improve(problem: Problem, starts: np.ndarray, goal: float, margins: _Margins) -> tuple[np.ndarray, float]:
    """Change single units, then pairs, until the target is met closely or nothing comes nearer; then swap units."""
    moved = [_moves(problem, start, margins) for start in starts]
    singles, origins = np.concatenate(moved), np.repeat(np.arange(len(starts)), [len(rows) for rows in moved])
    errors = _errors(problem, singles, goal)
    close = np.nonzero(errors <= CLOSE)[0]
    if len(close):
        gaps = [margins.of(starts[origins[i]], singles[i]) for i in close]
        best = close[int(np.argmin(gaps))]
        return singles[best], float(errors[best])
    counts, error = _nearest(problem, np.concatenate([starts[:2], singles]), goal)
    while error > CLOSE:
        singles = _moves(problem, counts, margins)
        both = np.concatenate([singles, _pairs(problem, counts, singles)])
        found, nearer = _nearest(problem, both, goal) if len(both) else (counts, error)
        if nearer >= error and error > ENOUGH:
            found, nearer = _best_swap(problem, counts, goal, margins)
        if nearer >= error:
            break
        counts, error = found, nearer
    return counts, error


def _best_swap(problem: Problem, counts: np.ndarray, goal: float, margins: _Margins) -> tuple[np.ndarray, float]:
    """The swap that meets the target closely with the smallest margin, else the one that comes nearest."""
    singles = _moves(problem, counts, margins)
    best, error = counts, np.inf
    for starts in (singles, _pairs(problem, counts, singles)):
        rows = _compensated(problem, starts, goal, margins)
        errors = _errors(problem, rows, goal)
        close = np.nonzero(errors <= CLOSE)[0]
        if len(close):
            cheapest = close[int(np.argmin([margins.of(counts, rows[i]) for i in close]))]
            return rows[cheapest], float(errors[cheapest])
        best, error = _nearest(problem, np.concatenate([best[None], rows]), goal)
        if error <= ENOUGH:
            break
    return best, error


def _compensated(problem: Problem, starts: np.ndarray, goal: float, margins: _Margins) -> np.ndarray:
    """`starts`, and each of them with another group changed by the numbers of units just below and above `goal`."""
    r, found = problem.round_to, [starts]
    macs = problem.meter.of(starts)
    for h, score in enumerate(margins.scores):
        if score is None:
            continue
        unit = np.eye(len(problem.sizes), dtype=np.int64)[h]
        each = np.maximum(macs - problem.meter.of(starts - unit), 1.0)  # MACs of one unit
        for steps in (np.floor((goal - macs) / each / r), np.ceil((goal - macs) / each / r)):
            wanted = starts[:, h] + steps.astype(np.int64) * r
            rows = starts.copy()
            rows[:, h] = np.clip(wanted, _least(problem)[h], problem.sizes[h])
            found.append(problem.rounded(rows))
    return np.concatenate(found)


def _pairs(problem: Problem, counts: np.ndarray, singles: np.ndarray) -> np.ndarray:
    """All rows that differ from `counts` by two of the moves in `singles`."""
    moves = singles - counts
    rows = counts + (moves[:, None] + moves[None]).reshape(-1, len(counts))
    fits = (rows >= _least(problem)) & (rows <= problem.sizes) & (rows == problem.rounded(rows))
    return rows[fits.all(axis=1)]


def _least(problem: Problem) -> np.ndarray:
    r = problem.round_to
    return np.minimum(-(-problem.floors // r) * r, problem.sizes)


def _moves(problem: Problem, counts: np.ndarray, margins: _Margins) -> np.ndarray:
    """All rows that differ from `counts` by one unit (or one step of `round_to`) of one scored group."""
    r = problem.round_to
    down, up = -(-counts // r) * r - r, np.minimum(counts // r * r + r, problem.sizes)
    rows = []
    for g, score in enumerate(margins.scores):
        for new in (down[g], up[g]):
            if score is not None and _least(problem)[g] <= new <= problem.sizes[g] and new != counts[g]:
                row = counts.copy()
                row[g] = new
                rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, len(counts))
