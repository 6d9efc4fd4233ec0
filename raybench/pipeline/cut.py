"""Stage 4: the cut. Removes the blocks and channels that don't stay, and refits layers if the criterion does so."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from raybench.groups import surgery
from raybench.groups.blocks import remove
from raybench.pipeline import select
from raybench.pipeline.network import groups_of, new_model
from raybench.pipeline.small import small_network
from raybench.pipeline.tokens import reduced_network
from raybench.selection import refit
from raybench.selection.records import Cut
from raybench.selection.shallow import without
from raybench.sweep.kinds import TOKENS
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task
from raybench.tokens.shape import Counts

GONE = (0, 0)  # widths of the layers of a removed block


@dataclass(frozen=True)
class Pruned:
    """A network whose channels were removed. `widths`: layer -> ((out, in) channels before, the same after)."""

    model: nn.Module
    widths: dict[str, tuple[tuple[int, int], tuple[int, int]]]
    tokens: Counts | None = None  # that attention and MLP of each block see, of a method that removes tokens


def cut_network(trial: Trial, start: nn.Module, cut: Cut, task: Task) -> Pruned:
    """Remove the blocks and channels that `cut` doesn't keep; refit the layers that read them if the criterion does so.

    `start`: the network that the selection was made on, sparsified or dense; it is left as it is. A trial from scratch
    gets the same widths with new weights.
    """
    if trial.kind == TOKENS:
        reduced, counts = reduced_network(trial, start, cut, task)
        return Pruned(reduced, {name: (both, both) for name, both in _widths(start).items()}, counts)
    if trial.is_small:
        dense = small_network(trial, cut, task, next(start.parameters()).device)
        return Pruned(dense, {name: (own, own) for name, own in _widths(dense).items()})
    before = _widths(start)
    start = without(start, cut.blocks) if cut.blocks else start
    model = copy.deepcopy(start)
    groups = groups_of(model, trial, task)
    criterion = None if trial.importance.trained else select.criterion_of(trial)
    if trial.from_scratch:
        model = new_model(trial, task, next(start.parameters()).device)
        remove(model, cut.blocks)
    surgery.apply(model, groups, cut.kept)
    after = _widths(model)
    if criterion is not None and refit.wanted(criterion) and not trial.from_scratch:
        calibration = select.calibration_of(criterion, trial, task)
        refit.reconstruct(criterion, start, model, groups, cut.kept, calibration, stage="surgery")
    return Pruned(model, {name: (own, after.get(name, GONE)) for name, own in before.items()})


def _widths(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) channels of every convolution and linear layer, by name."""
    widths = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            widths[name] = (module.out_features, module.in_features)
        elif isinstance(module, nn.modules.conv._ConvNd):
            widths[name] = (module.out_channels, module.in_channels)
    return widths
