"""Stage 4: the cut. Removes the channels that weren't selected, and refits layers if the criterion does so."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from raybench.groups import surgery
from raybench.pipeline import select
from raybench.pipeline.network import groups_of, new_model
from raybench.selection import refit
from raybench.selection.records import Cut
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task


@dataclass(frozen=True)
class Pruned:
    """A network whose channels were removed. `widths`: layer -> ((out, in) channels before, the same after)."""

    model: nn.Module
    widths: dict[str, tuple[tuple[int, int], tuple[int, int]]]


def cut_network(trial: Trial, start: nn.Module, cut: Cut, task: Task) -> Pruned:
    """Remove the channels that `cut` doesn't keep, and refit the layers that read them if the criterion does so.

    `start`: the network that the selection was made on, sparsified or dense; it is left as it is. A trial from scratch
    gets the same widths with new weights.
    """
    model = copy.deepcopy(start)
    groups = groups_of(model, trial, task)
    before = _widths(model)
    criterion = select.criterion_of(trial)
    if trial.from_scratch:
        model = new_model(trial, task, next(start.parameters()).device)
    surgery.apply(model, groups, cut.kept)
    after = _widths(model)
    if refit.wanted(criterion) and not trial.from_scratch:
        calibration = select.calibration_of(criterion, trial, task)
        refit.reconstruct(criterion, start, model, groups, cut.kept, calibration, stage="surgery")
    return Pruned(model, {name: (before[name], after[name]) for name in before})


def _widths(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) channels of every convolution and linear layer, by name."""
    widths = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            widths[name] = (module.out_features, module.in_features)
        elif isinstance(module, nn.modules.conv._ConvNd):
            widths[name] = (module.out_channels, module.in_channels)
    return widths
