"""How much accuracy a network loses if one group of channels alone is cut, for each group at several shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from raybench.datasets.facts import Split
from raybench.errors import NotSupported
from raybench.groups import surgery
from raybench.groups.cost import Cost
from raybench.pipeline import base
from raybench.pipeline.context import StageContext
from raybench.pipeline.network import example_of, groups_of, model_of
from raybench.pipeline.select import calibration_of, criterion_of
from raybench.scoring.scorer import Scoring
from raybench.selection.refit import reconstruct
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task


@dataclass(frozen=True)
class GroupCut:
    """One group cut alone; nothing is trained afterwards."""

    group: str
    part: str  # channels | mlp | heads | head-dim | embed
    units: int
    ratio: float  # share of the units asked to go
    kept: int
    speedup: float  # of the whole network
    metric: float
    drop: float  # base minus metric, in points


@dataclass(frozen=True)
class Sensitivity:
    """All cuts of one network, group after group."""

    metric_name: str
    metric_base: float
    split: Split
    cuts: tuple[GroupCut, ...]
    unscored: tuple[str, ...]  # groups that the criterion has no scores for


def sensitivity(
    trial: Trial, context: StageContext, ratios: Sequence[float], split: Split, say: Callable[[str], None]
) -> Sensitivity:
    """Cut each group of the trial's dense network alone, to each share, and evaluate.

    Args:
        trial: says the network, its weights, the data, the criterion and what may shrink. Its speed-up isn't read.
        context: where the dense network is stored, or trained and stored.
        ratios: shares of a group's units that go, the lowest scores first; a group keeps its fewest units.
        split: what is evaluated: ``val`` or ``test``.
        say: called with a line for each group.

    Raises:
        NotSupported: nothing of the network can be pruned, or the criterion scores none of it.
    """
    dense = base.run(trial, context, lambda **facts: None)
    task = open_task(trial, context.data_roots, context.device, context.storage)
    model = model_of(dense.folder, trial, task, context.device).eval()
    groups, example = groups_of(model, trial, task), example_of(task.data, context.device)
    criterion = criterion_of(trial)
    calibration = calibration_of(criterion, trial, task)
    scores = Scoring(criterion, model, calibration, trial.selection_seed).scorer(groups).scores()
    if all(score is None for score in scores):
        raise NotSupported(f"{trial.importance.name} scores no channel of {trial.model}")
    cost = Cost.measure(model, example, groups)
    whole = task.evaluate(model, split)[task.metric]

    def cuts() -> Iterator[GroupCut]:
        for g, (group, score) in enumerate(zip(groups, scores, strict=True)):
            if score is None:
                continue
            order, made = np.argsort(score, kind="stable"), []
            for ratio in ratios:
                count = max(group.least, group.size - round(ratio * group.size))
                slim, kept = copy.deepcopy(model), {group.name: np.sort(order[group.size - count :])}
                surgery.apply(slim, groups, kept)
                reconstruct(criterion, model, slim, groups, kept, calibration)
                counts = np.where(np.arange(len(groups)) == g, count, cost.sizes)
                found = task.evaluate(slim, split)[task.metric]
                speedup = cost.macs_base / float(cost.macs(counts))
                made.append(GroupCut(group.name, group.part, group.size, ratio, count, speedup, found, whole - found))
            say(f"group {g + 1} of {len(groups)}, {group.name}: " + ", ".join(f"{one.metric:.2f}" for one in made))
            yield from made

    unscored = tuple(group.name for group, score in zip(groups, scores, strict=True) if score is None)
    return Sensitivity(task.metric, whole, split, tuple(cuts()), unscored)
