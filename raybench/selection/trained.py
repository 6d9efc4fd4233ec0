"""Budgets for trained selections, and the cut that one of them has learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
from torch import Tensor, nn

from raybench.groups.cost import Cost
from raybench.groups.library_count import library_counts
from raybench.groups.records import Groups
from raybench.methods.trained_selection import Budget, Kept, Scores
from raybench.scoring.scorer import Alive, Scorer
from raybench.selection.exact_end import ENOUGH
from raybench.selection.problem import Problem, Solution
from raybench.selection.progressive import progressive
from raybench.selection.records import Cut
from raybench.selection.select import cut_of


class FixedScores:
    """Scores that removals don't change, in place of a `Scorer`."""

    def __init__(self, scores: Sequence[np.ndarray | None]) -> None:
        self._scores = scores

    def scores(self, alive: Alive | None = None) -> list[np.ndarray | None]:
        """One array (size,) per group; None for a group that is not to be cut."""
        return list(self._scores)


def budget_of(
    model: nn.Module,
    example: Tensor,
    groups: Groups,
    speedup: float,
    *,
    strategy: str,
    round_to: int,
    seed: int,
    epochs: int = 0,
) -> Budget:
    """What a selection of `model` for `speedup` may spend; `model` isn't changed."""
    problem = Problem.of(groups, Cost.measure(model, example, groups), strategy, round_to)
    choose = partial(_choose, problem, speedup)
    return Budget(groups, speedup, problem.sizes, problem.floors, problem.cost.macs, choose, example, seed, epochs)


def learnt_cut(
    model: nn.Module, example: Tensor, groups: Groups, kept: Kept, speedup: float, *, strategy: str, round_to: int
) -> Cut:
    """The cut that keeps the units `kept`, with its cost and, where it misses `speedup` by more than 0.5 %, the reason.

    UserError for units that don't exist.
    """
    problem = Problem.of(groups, Cost.measure(model, example, groups), strategy, round_to)
    units = [np.asarray(kept.get(g.name, np.arange(g.size)), dtype=np.int64) for g in groups]
    base, count = library_counts(model, example, groups)
    solution = Solution(tuple(units), _reason(problem, units, kept, speedup), 1)
    return cut_of(problem, speedup, solution, base, count)


def _choose(problem: Problem, speedup: float, scores: Scores) -> dict[str, np.ndarray]:
    solution = _solved(problem, speedup, scores)
    pairs = zip(problem.groups, solution.kept, strict=True)
    return {group.name: units for group, units in pairs if group.name in scores}


def _solved(problem: Problem, speedup: float, scores: Mapping[str, np.ndarray]) -> Solution:
    """The one-step selection by fixed scores."""
    found = [np.asarray(scores[g.name], dtype=float) if g.name in scores else None for g in problem.groups]
    scorer = cast(Scorer, FixedScores(found))  # of which only `scores` is called
    return progressive(problem, scorer, [speedup], 1)[speedup]


def _reason(problem: Problem, units: Sequence[np.ndarray], kept: Kept, speedup: float) -> str | None:
    """Why `units` miss the speed-up: what keeps any selection of these groups from it, else that training did."""
    counts = np.array([len(one) for one in units])
    reached = problem.cost.macs_base / float(problem.cost.macs(counts))
    if abs(reached / speedup - 1) <= ENOUGH:
        return None
    scores = {
        group.name: np.isin(np.arange(group.size), one).astype(float)
        for group, one in zip(problem.groups, units, strict=True)
        if group.name in kept
    }
    best = _solved(problem, speedup, scores)
    possible = problem.cost.macs_base / float(problem.cost.macs(np.array([len(one) for one in best.kept])))
    if best.reason is None or abs(reached - possible) > ENOUGH * speedup:
        return f"selection: the training ended at {reached:.3f}, where {possible:.3f} is possible"
    return best.reason
