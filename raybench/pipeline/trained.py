"""Trained selections in the pipeline: attached to the network, folded after training, and what they left as a cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from torch import nn

from raybench import registry
from raybench.errors import NotSupported
from raybench.groups.records import Groups
from raybench.methods.protocols import Regularizer
from raybench.methods.trained_selection import TrainedSelection
from raybench.pipeline import cache
from raybench.pipeline.network import example_of, groups_of
from raybench.selection.problem import STRATEGIES
from raybench.selection.records import Cut
from raybench.selection.trained import budget_of, learnt_cut
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task

KEPT = "kept.json"  # of the sparsifying stage: group -> units that stay


def attached(trial: Trial, model: nn.Module, task: Task) -> TrainedSelection:
    """The trial's selection, attached to `model`, which it changes; NotSupported where it can cut nothing."""
    ref, groups = trial.importance, groups_of(model, trial, task)
    if not len(groups):
        raise NotSupported(f"{trial.model} has nothing to prune: no group of channels was found")
    selection: TrainedSelection = registry.selection.load(ref.name)(**ref.params)
    if not STRATEGIES[trial.strategy].ranks:
        raise NotSupported(f"{ref.name} ranks units while it trains; strategy {trial.strategy} ranks none")
    if selection.alone and trial.processes > 1:
        raise NotSupported(f"{ref.name} is trained by one process; the cell has {trial.processes}")
    example = example_of(task.data, next(model.parameters()).device)
    budget = budget_of(
        model, example, groups, trial.speedup,
        strategy=trial.strategy, round_to=trial.round_to, seed=trial.seed, epochs=trial.recipe.sparsify.epochs,
    )  # fmt: skip
    selection.attach(model, budget)
    return selection


def settle(hook: Regularizer, folder: Path) -> None:
    """After training: write the units that a trained selection keeps to the stage's `folder`, and fold it away."""
    if isinstance(hook, TrainedSelection):
        kept = {name: np.asarray(units).tolist() for name, units in hook.kept().items()}
        (folder / KEPT).write_text(json.dumps(kept))
        hook.fold()


def cut_of(trial: Trial, folder: Path, model: nn.Module, groups: Groups, task: Task) -> Cut:
    """The cut of the units that the selection trained in the stage's `folder` has kept; `model` is its network."""
    kept = {name: np.array(units, dtype=np.int64) for name, units in json.loads(cache.content_of(folder, KEPT)).items()}
    example = example_of(task.data, next(model.parameters()).device)
    return learnt_cut(model, example, groups, kept, trial.speedup, strategy=trial.strategy, round_to=trial.round_to)
