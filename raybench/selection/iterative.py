"""The iterative schedule: a data-driven criterion scores the network again after each of k physical cuts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raybench.groups import surgery
from raybench.scoring.scorer import Scorer, Scoring
from raybench.selection.problem import Problem, Solution, plan_step
from raybench.selection.progressive import SimulatedPruning, exhausted, finish
from raybench.selection.refit import reconstruct
from raybench.selection.rescoring import spread

RESCORINGS = 10  # k


def iterative(
    problem: Problem, scorer: Scorer, targets: Sequence[float], scoring: Scoring, stages: int = RESCORINGS
) -> dict[float, Solution]:
    """Solve each target independently, over speed-ups spaced geometrically from 1 to the target.

    `scorer` has scored the whole network of `scoring`; copies of the network are cut and scored with new evidence.
    """
    whole = scorer.scores()
    return {target: _solve(problem, whole, target, scoring, stages) for target in targets}


def _solve(problem: Problem, scores: list[np.ndarray | None], target: float, scoring: Scoring, stages: int) -> Solution:
    simulated = SimulatedPruning(problem)
    for stage in range(1, stages + 1):
        if stage > 1:
            scores = rescored(problem, simulated, scoring)
        step = plan_step(problem, scores, simulated.alive, 1.0, {})
        goal = problem.goal(target ** (stage / stages))
        path = simulated.path(step)
        reached = problem.spent(path) <= goal
        if not reached.any():
            simulated.remove(step.group, step.unit)
            return exhausted(simulated, scores, target, stage)
        if stage == stages:
            break
        first = int(np.argmax(reached))
        simulated.remove(step.group[:first], step.unit[:first])
    return finish(simulated, scores, step, target, stages)


def rescored(problem: Problem, simulated: SimulatedPruning, scoring: Scoring) -> list[np.ndarray | None]:
    """Scores of a copy of the network that is cut and, by criteria that do so, refitted.

    Arrays run over the uncut groups' units; entries of removed units are 0.
    """
    kept = {group.name: np.nonzero(alive)[0] for group, alive in zip(problem.groups, simulated.alive, strict=True)}
    slim = copy.deepcopy(scoring.model)
    surgery.apply(slim, problem.groups, kept)
    reconstruct(scoring.criterion, scoring.model, slim, problem.groups, kept, scoring.calibration)
    found = replace(scoring, model=slim).scorer(surgery.narrowed(problem.groups, kept)).scores()
    return spread(found, simulated.alive)
