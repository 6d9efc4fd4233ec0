"""The `pruningbench` protocol: torch-pruning's own loop, with the same decisions but without its surgery.

A criterion that needs data looks at the network as it is before every step, as in the library's scripts: a copy is cut
along (`rescoring`). No layer is refitted between steps: the library's loop only removes channels.

Its rules differ from raybench's on purpose: a floor that only stops groups already below it, all ties removed,
a step that would empty a group skipped, depthwise convolutions not scored, and a stop at the first step past the
target by the library's own count. Two of the library's rules aren't followed: it scores a layer that runs twice two
times, and the inputs of a grouped convolution once per convolution group. Cuts of such networks differ a little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Protocol

import numpy as np

from raybench.errors import counted
from raybench.groups.library_count import Counter
from raybench.groups.records import Groups
from raybench.scoring.scorer import Alive
from raybench.selection.problem import Problem, RemainingUnits, Solution, held_back

NEAR = 0.005  # relative miss of the target above which the result has a reason


class ScoreSource(Protocol):
    """Provides the scores of the remaining units before each step."""

    def scores(self, alive: Alive) -> Sequence[np.ndarray | None]:
        """One array (size,) per group, None where no layer is scored; entries of removed units are meaningless."""


def library_members(groups: Groups) -> Groups:
    """`groups` without the depthwise convolutions, which the library's criteria don't score."""
    left = [replace(g, members=tuple(m for m in g.members if m.kind != "depthwise")) for g in groups]
    return replace(groups, groups=tuple(left))


def library(
    problem: Problem, scorer: ScoreSource, targets: Sequence[float], steps: int, base: int, count: Counter, slow: bool
) -> dict[float, Solution]:
    """Solve each target (ascending): stop at the first of `steps` steps whose speed-up, by `count`, reaches it.

    `base`: MACs of the whole network by `count`. `slow`: a step takes longer than a count, so none is taken in vain.
    """
    walk = _Walk(problem, scorer, steps)
    speedup = cache(lambda step: base / count(walk.kept(step)))
    first = _walked if slow else _bisected
    return {target: _stop(walk, target, first(walk, target, speedup), speedup) for target in targets}


def _walked(walk: _Walk, target: float, speedup: Callable[[int], float]) -> int:
    """The first step that reaches `target`, or the last one; no step after it is computed."""
    step = 0
    while speedup(step) < target and step < walk.steps:
        step += 1
        walk.compute(step)
    return step


def _bisected(walk: _Walk, target: float, speedup: Callable[[int], float]) -> int:
    """The same by bisection, with few counts: the speed-up grows with every step."""
    ahead = 1.05 * target  # by raybench's count, which differs by a few percent
    while not walk.reaches(ahead) or speedup(len(walk.path) - 1) < target:
        if walk.ended:
            break
        ahead *= 1.05
    low, high = 0, len(walk.path) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if speedup(middle) >= target else (middle + 1, high)
    return low


def _stop(walk: _Walk, target: float, step: int, speedup: Callable[[int], float]) -> Solution:
    return Solution(tuple(walk.kept(step)), _reason(walk, step, target, speedup(step)), step)


def _reason(walk: _Walk, step: int, target: float, reached: float) -> str | None:
    """Why the cut after `step` steps misses its target; `reached`: its speed-up as the library counts."""
    problem, counts = walk.problem, np.array([alive.sum() for alive in walk.path[step]])
    if reached < target:
        held = held_back(problem, counts, walk.scores)
        return f"floor: best reachable {reached:.3f} after {counted(walk.steps, 'step')}; {held}"
    if reached > (1 + NEAR) * target:
        return f"overshoot: the library stops {reached / target - 1:.2%} past the target as it counts (macs_tp)"
    if abs(problem.cost.macs_base / float(problem.cost.macs(counts)) / target - 1) > NEAR:
        return f"count: {reached:.3f} as torch-pruning counts (macs_tp)"
    return None


class _Walk:
    """The states of the loop, one after each step, computed as far as they are needed."""

    def __init__(self, problem: Problem, scorer: ScoreSource, steps: int) -> None:
        self.problem, self.steps, self._scorer = problem, steps, scorer
        self.scores: Sequence[np.ndarray | None] = []  # of the last step
        self.path = [[np.ones(size, dtype=bool) for size in problem.sizes]]
        self.initial: dict[int, int] = {}

    @property
    def ended(self) -> bool:
        """Whether all steps are computed."""
        return len(self.path) > self.steps

    def kept(self, step: int) -> list[np.ndarray]:
        """Remaining units of every group after `step` steps."""
        return [np.nonzero(alive)[0] for alive in self.path[step]]

    def reaches(self, speedup: float) -> bool:
        """Compute steps until `speedup` is reached by raybench's count; False when the steps end before."""
        cost = self.problem.cost
        while cost.macs_base / cost.macs(np.array([a.sum() for a in self.path[-1]])) < speedup:
            if self.ended:
                return False
            self._step()
        return True

    def compute(self, step: int) -> None:
        """Compute the steps up to `step`."""
        while len(self.path) <= step:
            self._step()

    def _step(self) -> None:
        problem, alive = self.problem, self.path[-1]
        self.scores = self._scorer.scores(alive)
        scores = [None if s is None else s.astype(np.float32) for s in self.scores]
        usable = _usable(problem, np.array([a.sum() for a in alive]))
        after = [a.copy() for a in alive]
        ratio = len(self.path) / float(self.steps)
        for scope in np.unique(problem.scopes):
            inside = map(int, np.nonzero(problem.scopes == scope)[0])
            members = [g for g in inside if usable[g] and scores[g] is not None]
            if members:
                self._remove(int(scope), members, scores, alive, ratio, after)
        self.path.append(after)

    def _remove(
        self,
        scope: int,
        members: Sequence[int],
        scores: Sequence[np.ndarray | None],
        alive: Sequence[np.ndarray],
        ratio: float,
        after: Sequence[np.ndarray],
    ) -> None:
        remaining = RemainingUnits(members, scores, alive)
        n = remaining.count - int(self.initial.setdefault(scope, remaining.count) * (1 - ratio))
        if n <= 0:
            return
        # `imp <= thres` takes all ties; a scope of one group takes exactly its n lowest
        group, unit = remaining.up_to(remaining.nth(n)) if self.problem.ties_go else remaining.lowest(n)
        for g in members:
            score = scores[g]
            assert score is not None  # `members` are scored groups
            gone = self._rounded(unit[group == g], score, alive[g])
            if 0 < len(gone) <= alive[g].sum() - self.problem.groups.groups[g].least:
                after[g][gone] = False

    def _rounded(self, gone: np.ndarray, score: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """Units to remove so that a multiple of `round_to` stays: rounded down, as in the library."""
        if self.problem.round_to == 1 or not len(gone):
            return gone
        remaining = np.nonzero(alive)[0]
        stays = len(remaining) - len(gone)
        stays -= stays % self.problem.round_to
        return remaining[np.argsort(score[remaining], kind="stable")][: len(remaining) - stays]


def _usable(problem: Problem, counts: np.ndarray) -> np.ndarray:
    """(groups,) bool: no layer is below the soft floor or has one channel (the library's `_check_pruning_ratio`)."""
    widths = problem.cost.widths
    now, before = widths.at(counts), widths.at(problem.sizes)
    most = 1 - problem.protected_share  # written as the library does, for the same rounding
    low = (now < before * (1 - most)) | (now == 1)
    return np.array(
        [
            not any(low[widths.columns[m.layer, m.side]] for m in group.members if m.kind != "parameter")
            for group in problem.groups
        ]
    )
