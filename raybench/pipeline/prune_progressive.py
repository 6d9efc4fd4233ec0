"""The progressive schedule on paper: the library's steps, without its surgery and its forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raybench.methods.scoring import Scorer
from raybench.pipeline.prune_fill import ENOUGH, fill
from raybench.pipeline.prune_plan import Problem, Solution, Step, held_back, plan_step


class Paper:
    """A network that loses channels on paper: who is alive, and in which order the dead went."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.alive = [np.ones(size, dtype=bool) for size in problem.sizes]
        self.dead: list[list[int]] = [[] for _ in problem.sizes]

    @property
    def counts(self) -> np.ndarray:
        """(groups,) living units."""
        return np.array([a.sum() for a in self.alive])

    def remove(self, group: np.ndarray, unit: np.ndarray) -> None:
        """Kill units in the order given."""
        for g in np.unique(group):
            gone = unit[group == g]
            self.alive[g][gone] = False
            self.dead[g].extend(gone.tolist())

    def order(self, scores: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """Units of each group from the first that went to the best that is left."""
        found = []
        for alive, dead, score in zip(self.alive, self.dead, scores, strict=True):
            living = np.nonzero(alive)[0]
            if score is not None:
                living = living[np.argsort(score[living], kind="stable")]
            found.append(np.concatenate([np.array(dead, dtype=np.int64), living]))
        return found


def progressive(problem: Problem, scorer: Scorer, targets: Sequence[float], steps: int) -> dict[float, Solution]:
    """Solve every target (ascending) on one walk of `steps` steps; one step is the one-shot schedule."""
    paper, initial, found = Paper(problem), {}, {}
    waiting = list(targets)
    scores: list[np.ndarray | None] = []
    for number in range(1, steps + 1):
        scores = scorer.scores(paper.alive)
        step = plan_step(problem, scores, paper.alive, number / steps, initial)
        after = paper.counts - np.bincount(step.group, minlength=len(problem.sizes))
        macs = float(problem.macs(after))
        while waiting and macs <= problem.goal(waiting[0]):
            found[waiting[0]] = finish(paper, scores, step, waiting[0], number)
            del waiting[0]
        if not waiting:
            return found
        paper.remove(step.group, step.unit)
    return found | {target: exhausted(paper, scores, target, steps) for target in waiting}


def at_ratio(problem: Problem, scorer: Scorer, ratio: float) -> Solution:
    """One step that removes `ratio` of the units that each scope ranks, as torch-pruning's one-step pruner does."""
    paper = Paper(problem)
    scores = scorer.scores(paper.alive)
    step = plan_step(problem, scores, paper.alive, ratio, {})
    paper.remove(step.group, step.unit)
    return Solution(kept_of(paper.order(scores), problem.rounded(paper.counts)), None, 1)


def finish(paper: Paper, scores: Sequence[np.ndarray | None], step: Step, target: float, number: int) -> Solution:
    """Stop inside `step` where the target is met, then fill up with single units."""
    problem, n = paper.problem, len(paper.problem.sizes)
    gone = np.zeros((len(step.group) + 1, n), dtype=np.int64)
    gone[np.arange(1, len(gone)), step.group] = 1
    path = paper.counts - np.cumsum(gone, axis=0)  # counts after each candidate
    order = paper.order(scores)
    counts, reason = fill(problem, path, order, scores, step.threshold, target)
    return Solution(kept_of(order, counts), reason, number)


def kept_of(order: Sequence[np.ndarray], counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """The best `counts[g]` units of each group's order, ascending."""
    return tuple(np.sort(units[len(units) - count :]) for units, count in zip(order, counts, strict=True))


def exhausted(paper: Paper, scores: Sequence[np.ndarray | None], target: float, number: int) -> Solution:
    """The floors bind before the target: the best cut there is, and which groups hold it back most."""
    problem = paper.problem
    counts = problem.rounded(paper.counts)
    reached = problem.cost.macs_base / float(problem.cost.macs(counts))
    near = abs(reached / target - 1) <= ENOUGH
    reason = None if near else f"floor: best reachable {reached:.3f}; {held_back(problem, counts, scores)}"
    return Solution(kept_of(paper.order(scores), counts), reason, number)
