"""The progressive schedule, simulated: torch-pruning's steps without its surgery and forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raybench.scoring.scorer import Scorer
from raybench.selection.exact_end import ENOUGH, fill
from raybench.selection.problem import Problem, Solution, Step, held_back, plan_step


class SimulatedPruning:
    """The state of a simulated pruning: the remaining units, and the removed ones in order of removal."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.alive = [np.ones(size, dtype=bool) for size in problem.sizes]
        self.removed: list[list[int]] = [[] for _ in problem.sizes]

    @property
    def counts(self) -> np.ndarray:
        """(groups,) number of remaining units."""
        return np.array([a.sum() for a in self.alive])

    def path(self, step: Step) -> np.ndarray:
        """(n + 1, groups) number of remaining units after each of the n candidates of `step`."""
        single = np.zeros((len(step.group) + 1, len(self.problem.sizes)), dtype=np.int64)
        single[np.arange(1, len(single)), step.group] = 1
        return self.counts - np.cumsum(single, axis=0)

    def remove(self, group: np.ndarray, unit: np.ndarray) -> None:
        """Remove units in the order given."""
        for g in np.unique(group):
            gone = unit[group == g]
            self.alive[g][gone] = False
            self.removed[g].extend(gone.tolist())

    def order(self, scores: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """Units of each group: the removed ones in order of removal, then the remaining ones by ascending score."""
        found = []
        for alive, removed, score in zip(self.alive, self.removed, scores, strict=True):
            remaining = np.nonzero(alive)[0]
            if score is not None:
                remaining = remaining[np.argsort(score[remaining], kind="stable")]
            found.append(np.concatenate([np.array(removed, dtype=np.int64), remaining]))
        return found


def progressive(problem: Problem, scorer: Scorer, targets: Sequence[float], steps: int) -> dict[float, Solution]:
    """Solve all targets (ascending) in one pass of `steps` steps; one step is the one-shot schedule."""
    simulated = SimulatedPruning(problem)
    initial: dict[int, int] = {}
    found: dict[float, Solution] = {}
    waiting = list(targets)
    scores: list[np.ndarray | None] = []
    for number in range(1, steps + 1):
        scores = scorer.scores(simulated.alive)
        step = plan_step(problem, scores, simulated.alive, number / steps, initial)
        after = simulated.counts - np.bincount(step.group, minlength=len(problem.sizes))
        spent = float(problem.spent(after))
        while waiting and spent <= problem.goal(waiting[0]):
            found[waiting[0]] = finish(simulated, scores, step, waiting[0], number)
            del waiting[0]
        if not waiting:
            return found
        simulated.remove(step.group, step.unit)
    return found | {target: exhausted(simulated, scores, target, steps) for target in waiting}


def at_ratio(problem: Problem, scorer: Scorer, ratio: float) -> Solution:
    """Remove the share `ratio` of each scope's units in one step, as torch-pruning's one-step pruner does."""
    simulated = SimulatedPruning(problem)
    scores = scorer.scores(simulated.alive)
    step = plan_step(problem, scores, simulated.alive, ratio, {})
    simulated.remove(step.group, step.unit)
    return Solution(kept_of(simulated.order(scores), problem.rounded(simulated.counts)), None, 1)


def finish(
    simulated: SimulatedPruning, scores: Sequence[np.ndarray | None], step: Step, target: float, number: int
) -> Solution:
    """Stop inside `step` where the target is met, then adjust by single units."""
    order = simulated.order(scores)
    counts, reason = fill(simulated.problem, simulated.path(step), order, scores, step.threshold, target)
    return Solution(kept_of(order, counts), reason, number)


def kept_of(order: Sequence[np.ndarray], counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """The last `counts[g]` units of each group's order, sorted by index."""
    return tuple(np.sort(units[len(units) - count :]) for units, count in zip(order, counts, strict=True))


def exhausted(simulated: SimulatedPruning, scores: Sequence[np.ndarray | None], target: float, number: int) -> Solution:
    """The best cut when the floors don't allow the target, with a reason that names the limiting groups."""
    problem = simulated.problem
    counts = problem.rounded(simulated.counts)
    reached = problem.meter.base / float(problem.meter.of(counts))
    near = abs(reached / target - 1) <= ENOUGH
    reason = None if near else f"floor: best reachable {reached:.3f}; {held_back(problem, counts, scores)}"
    return Solution(kept_of(simulated.order(scores), counts), reason, number)
