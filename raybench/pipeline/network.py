"""Builds the network of a trial, loads its weights, and traces its groups."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybench import registry
from raybench.datasets.facts import DataFacts
from raybench.errors import NotSupported
from raybench.groups.blocks import lacks_blocks, still_there
from raybench.groups.records import Groups
from raybench.groups.trace import trace
from raybench.models.baked import baked
from raybench.models.build import build_model
from raybench.models.head import Head
from raybench.models.weights import fill_from
from raybench.pipeline import cache
from raybench.sweep.trial import Trial
from raybench.sweep.weights import NONE, Weights
from raybench.tasks.protocol import Task

NEW = 1_000_003  # added to the seed of a network with new weights
KNOWN = 16  # groupings that a process remembers


def fresh_model(trial: Trial, task: Task, device: torch.device, given: Weights | None = None) -> nn.Module:
    """The unpruned network on `device`, with the weights that the trial names; what it has no weights for is seeded.

    `given`: a file in place of the trial's weights, where those are of a stage; without it they stay seeded.
    """
    model, weights = _seeded(trial, task.data), given or trial.weights
    if weights.kind in ("file", "hub"):
        fill = partial(fill_from, grey=True) if trial.transfer != NONE else fill_from
        fill(model, weights, Head(trial.model, task.data, trial.model_params))
    return baked(model).to(device)


def new_model(trial: Trial, task: Task, device: torch.device) -> nn.Module:
    """The unpruned network with initial weights of the trial's seed, other ones than the base started from."""
    return baked(_seeded(trial, task.data, NEW + trial.seed)).to(device)


def model_of(stage: Path, trial: Trial, task: Task, device: torch.device) -> nn.Module:
    """The unpruned network with the weights of a published stage (base or sparsify)."""
    return cache.fill_from_stage(baked(_seeded(trial, task.data)), stage, device)


def example_of(data: DataFacts, device: torch.device) -> Tensor:
    """A black image (1, channels, height, width), the input for tracing and counting."""
    return torch.zeros(1, *data.image_shape, device=device)


def groups_of(model: nn.Module, trial: Trial, task: Task) -> Groups:
    """The groups of the trial's unpruned network that its `prune`, `keep` and `only` allow to prune.

    Those of raybench's own networks and timm's are found once in a process: they follow from the architecture, and a
    worker meets the same one in every stage. Code of others may look at its weights, so it is traced each time.
    """
    if not from_library(trial.model):
        return _traced(model, trial, task)
    shapes = tuple((name, tuple(value.shape)) for name, value in model.state_dict().items())
    params, choice = json.dumps(trial.model_params, sort_keys=True), (trial.prune, trial.keep, trial.only)
    device = next(model.parameters()).device.type
    key = (trial.model, params, shapes, task.data.image_shape, task.data.classes, choice, device, model.training)
    if key not in _known:
        while len(_known) >= KNOWN:
            _known.pop(next(iter(_known)))
        _known[key] = _traced(model, trial, task)
    return _known[key]


def from_library(model: str) -> bool:
    """Whether `model` names a network of raybench or timm."""
    if model.startswith("timm:"):
        return True
    entry = registry.model.entries().get(model)
    return entry is not None and entry.source is None


def _traced(model: nn.Module, trial: Trial, task: Task) -> Groups:
    device = next(model.parameters()).device
    example, classes = example_of(task.data, device), task.data.classes
    keep, only = trial.keep, trial.only
    if lacks_blocks(model):
        keep, only = layers_left(model, keep, only)
    return trace(model, example, prune=trial.prune, classes=classes, protect=keep, only=only)


def layers_left(model: nn.Module, keep: Sequence[str], only: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is left of `keep` and `only` in a network from which blocks were removed, or may have been.

    Raises:
        NotSupported: no layer of `only` is left, so that nothing may shrink.
    """
    still = still_there(model, only)
    if only and not still:
        raise NotSupported(f"only: every layer of {', '.join(only)} went with its block")
    return still_there(model, keep), still


_known: dict[Hashable, Groups] = {}  # in the order in which they were found


def _seeded(trial: Trial, data: DataFacts, seed: int | None = None) -> nn.Module:
    """The network with initial weights of `seed`, the base seed by default."""
    return seeded_model(trial.model, trial.model_params, data, trial.base_seed if seed is None else seed)


def seeded_model(name: str, params: Mapping[str, Any], data: DataFacts, seed: int) -> nn.Module:
    """The network `name` with initial weights of `seed`, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(name, data, params)
