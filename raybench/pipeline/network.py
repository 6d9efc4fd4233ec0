"""Builds the network of a trial, loads its weights, and traces its groups."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from raybench.datasets.facts import DataFacts
from raybench.groups.records import Groups
from raybench.groups.trace import trace
from raybench.models.baked import baked
from raybench.models.build import build_model
from raybench.models.head import Head
from raybench.models.weights import fill_from
from raybench.pipeline import cache
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task

NEW = 1_000_003  # added to the seed of a network with new weights


def fresh_model(trial: Trial, task: Task, device: torch.device) -> nn.Module:
    """The unpruned network on `device`, with the weights that the trial names; what it has no weights for is seeded."""
    model = _seeded(trial, task.data)
    if trial.weights.kind != "trained":
        fill_from(model, trial.weights, Head(trial.model, task.data, trial.model_params))
    return baked(model).to(device)


def new_model(trial: Trial, task: Task, device: torch.device) -> nn.Module:
    """The unpruned network with initial weights of the trial's seed, other ones than the base started from."""
    return baked(_seeded(trial, task.data, NEW + trial.seed)).to(device)


def model_of(stage: Path, trial: Trial, task: Task, device: torch.device) -> nn.Module:
    """The unpruned network with the weights of a published stage (base or sparsify)."""
    return cache.load_weights(baked(_seeded(trial, task.data)), stage, device)


def example_of(data: DataFacts, device: torch.device) -> Tensor:
    """A black image (1, channels, height, width), the input for tracing and counting."""
    return torch.zeros(1, *data.image_shape, device=device)


def groups_of(model: nn.Module, trial: Trial, task: Task) -> Groups:
    """The groups of `model` that the trial's `prune`, `keep` and `only` allow to prune."""
    device = next(model.parameters()).device
    example, classes = example_of(task.data, device), task.data.classes
    return trace(model, example, prune=trial.prune, classes=classes, protect=trial.keep, only=trial.only)


def _seeded(trial: Trial, data: DataFacts, seed: int | None = None) -> nn.Module:
    """The network with initial weights of `seed`, the base seed by default."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.base_seed if seed is None else seed)
        return build_model(trial.model, data, trial.model_params)
