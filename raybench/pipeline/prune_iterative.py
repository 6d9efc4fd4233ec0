"""The iterative schedule: a data-driven criterion sees the network as it is after each of k physical cuts."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from torch import nn

from raybench.methods.evidence import gather
from raybench.methods.protocols import Calibration, Importance
from raybench.methods.scoring import Scorer
from raybench.pipeline import surgery
from raybench.pipeline.prune_plan import Problem, Solution, Step, plan_step
from raybench.pipeline.prune_progressive import Paper, exhausted, finish
from raybench.pipeline.reconstruct import reconstruct

RESCORINGS = 10


def iterative(
    problem: Problem,
    scorer: Scorer,
    targets: Sequence[float],
    criterion: Importance,
    model: nn.Module,
    calibration: Calibration | None,
    seed: int,
    stages: int = RESCORINGS,
) -> dict[float, Solution]:
    """Each target by itself, over speed-ups spaced geometrically from 1 to it, so that targets never mix.

    `scorer` has scored the whole `model`; copies of it are cut, scored with fresh evidence, and thrown away.
    """
    whole = scorer.scores()
    return {target: _solve(problem, whole, target, criterion, model, calibration, seed, stages) for target in targets}


def _solve(
    problem: Problem,
    scores: list[np.ndarray | None],
    target: float,
    criterion: Importance,
    model: nn.Module,
    calibration: Calibration | None,
    seed: int,
    stages: int,
) -> Solution:
    paper = Paper(problem)
    for stage in range(1, stages + 1):
        if stage > 1:
            scores = _rescored(problem, paper, criterion, model, calibration, seed)
        step = plan_step(problem, scores, paper.alive, 1.0, {})
        goal = problem.goal(target ** (stage / stages))
        path = paper.counts - _removed(step, len(problem.sizes))
        reached = problem.macs(path) <= goal
        if not reached.any():
            paper.remove(step.group, step.unit)
            return exhausted(paper, scores, target, stage)
        if stage == stages:
            break
        first = int(np.argmax(reached))
        paper.remove(step.group[:first], step.unit[:first])
    return finish(paper, scores, step, target, stages)


def _removed(step: Step, groups: int) -> np.ndarray:
    """(n + 1, groups) units removed after each candidate."""
    one = np.zeros((len(step.group) + 1, groups), dtype=np.int64)
    one[np.arange(1, len(one)), step.group] = 1
    return np.cumsum(one, axis=0)


def _rescored(
    problem: Problem,
    paper: Paper,
    criterion: Importance,
    model: nn.Module,
    calibration: Calibration | None,
    seed: int,
) -> list[np.ndarray | None]:
    """Scores of the network as it would be: cut, refitted by criteria that do so; over the uncut groups' units."""
    kept = {group.name: np.nonzero(alive)[0] for group, alive in zip(problem.groups, paper.alive, strict=True)}
    slim = copy.deepcopy(model)
    surgery.apply(slim, problem.groups, kept)
    reconstruct(criterion, model, slim, problem.groups, kept, calibration)
    groups = surgery.narrowed(problem.groups, kept)
    found = Scorer(criterion, slim, groups, gather(criterion, slim, groups, calibration), seed).scores()
    scores: list[np.ndarray | None] = []
    for size, units, score in zip(problem.sizes, kept.values(), found, strict=True):
        if score is None:
            scores.append(None)
            continue
        spread = np.zeros(size)
        spread[units] = score
        scores.append(spread)
    return scores
