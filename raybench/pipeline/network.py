"""The network of a trial: built, filled with weights, traced into groups."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from raybench.models.build import build_model
from raybench.models.weights import fill_from
from raybench.pipeline import cache
from raybench.pipeline.group import trace
from raybench.pipeline.records import Groups
from raybench.spec.trial import Trial
from raybench.tasks.protocol import DataFacts, Task


def fresh_model(trial: Trial, task: Task, device: torch.device) -> nn.Module:
    """The unpruned network on `device`: with seeded initial weights, or the given ones where the trial names some."""
    model = _seeded(trial, task.data)
    if trial.weights.kind != "trained":
        fill_from(model, trial.weights)
    return model.to(device)


def model_of(stage: Path, trial: Trial, task: Task, device: torch.device) -> nn.Module:
    """The unpruned structure with the weights of a published stage (base or sparsify)."""
    return cache.load_weights(_seeded(trial, task.data), stage, device)


def example_of(data: DataFacts, device: torch.device) -> Tensor:
    """One black image, (1, channels, height, width): what tracing and counting run on."""
    return torch.zeros(1, data.in_channels, data.image_size, data.image_size, device=device)


def groups_of(model: nn.Module, trial: Trial, task: Task) -> Groups:
    """The prunable groups of `model`, as the trial's `prune:` allows them."""
    device = next(model.parameters()).device
    return trace(model, example_of(task.data, device), prune=trial.prune, classes=task.data.classes)


def _seeded(trial: Trial, data: DataFacts) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.base_seed)
        return build_model(trial.model, data, trial.model_params)
