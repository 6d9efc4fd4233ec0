"""Stage 4b and 5: the physical cut, and the training that makes up for it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from raybench.pipeline import base, reconstruct, select, sparsify, surgery
from raybench.pipeline.network import groups_of, model_of
from raybench.pipeline.records import Cut
from raybench.pipeline.room import Room
from raybench.spec.trial import Trial
from raybench.storage.checkpoints import StageCheckpoint
from raybench.tasks.protocol import Task, Training


@dataclass(frozen=True)
class Pruned:
    """A network after surgery: smaller for good. `widths` are (out, in) channels of each layer, before and after."""

    model: nn.Module
    widths: dict[str, tuple[tuple[int, int], tuple[int, int]]]


def cut_network(trial: Trial, cut: Cut, task: Task, room: Room) -> Pruned:
    """Load the network that the selection was made on and remove what the cut does not keep.

    A criterion that reconstructs then refits what reads the removed channels.
    """
    start = sparsify.load(trial, room) or base.load(trial, room)
    model = model_of(start.folder, trial, task, room.device)
    groups = groups_of(model, trial, task)
    before = _widths(model)
    criterion = select.criterion_of(trial)
    dense = copy.deepcopy(model) if reconstruct.wanted(criterion) else model
    surgery.apply(model, groups, cut.kept)
    after = _widths(model)
    if dense is not model:
        calibration = select.calibration_of(criterion, trial, task)
        reconstruct.reconstruct(criterion, dense, model, groups, cut.kept, calibration, stage="surgery")
    return Pruned(model, {name: (before[name], after[name]) for name in before})


def finetune(trial: Trial, pruned: Pruned, task: Task, room: Room) -> Training:
    """Fine-tune the pruned network in place, continuing at the last epoch that a killed run finished."""
    teacher = None
    if trial.recipe.finetune.distill:
        teacher = model_of(base.load(trial, room).folder, trial, task, room.device).eval()
    return task.train(
        pruned.model,
        trial.recipe.finetune,
        seed=trial.seed,
        checkpoint=StageCheckpoint(room.storage, trial.trial_id),
        teacher=teacher,
        select="test" if trial.protocol == "pruningbench" else "val",
    )


def _widths(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) channels of every convolution and linear layer, by name."""
    widths = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            widths[name] = (module.out_features, module.in_features)
        elif isinstance(module, nn.modules.conv._ConvNd):
            widths[name] = (module.out_channels, module.in_channels)
    return widths
