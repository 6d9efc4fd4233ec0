"""Measures how many copies of a cell train side by side on one GPU: memory, step time, cells an hour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from raybench.pipeline.context import Note, StageContext
from raybench.pipeline.probe_copy import NoMemory
from raybench.pipeline.side_by_side import SideBySide
from raybench.plan.records import Unit
from raybench.plan.share import COPIES, Copies, Share, encode_share, file_of
from raybench.plan.shares import largest_stage
from raybench.provenance import usable_cores
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task


class Device(Protocol):
    """A device on which copies of a training step are run side by side."""

    name: str
    total_mb: float  # memory, MiB

    def beside(self, copies: int) -> tuple[float, float]:
        """(peak MiB of the largest copy, mean seconds of a step in each) of `copies` at once; NoMemory."""


def run_probe(
    unit: Unit,
    context: StageContext,
    announce: Callable[[str], None],
    note: Note,
    device: Callable[[Trial, StageContext], Device] | None = None,
) -> Mapping[str, float]:
    """Measure the largest cell of a (model, dataset) and publish the table. `device`: None for the context's own."""
    announce("probe")
    trial = unit.trials[0]
    task = open_task(trial, context.data_roots, context.device, context.storage)
    if not hasattr(task, "training_steps"):
        share = Share(trial.dataset, trial.model, "", 0.0, why=f"there is no probe for {trial.task}")
    else:
        recipe = largest_stage(trial)
        steps = max(trial.tuning.epochs, 1) * math.ceil(task.training_images / recipe.batch_size)
        most = max(1, int(usable_cores() // context.cpus))
        share = measured(trial, (device or SideBySide)(trial, context), steps, most)
    context.storage.replace(file_of(unit.key), encode_share(share))
    return {"copies": share.copies}


def measured(trial: Trial, device: Device, steps: int, most: int) -> Share:
    """The table of `trial` on `device`.

    Args:
        trial: the largest cell of its model and dataset.
        device: what is measured.
        steps: training steps of one cell.
        most: cells that the machine's processor cores hold.
    """
    found = list(measuring(device, steps, most))
    why = "".join(one for one in found if isinstance(one, str))
    copies = tuple(one for one in found if isinstance(one, Copies))
    return Share(trial.dataset, trial.model, device.name, device.total_mb, copies, why)


def measuring(device: Device, steps: int, most: int) -> Iterator[Copies | str]:
    """What `measured` finds, each number of copies as it is known; at last why there are no more, if so."""
    for copies in COPIES:
        if copies > most:
            yield f"its cores hold {most}"
            return
        try:
            memory_mb, step_s = device.beside(copies)
        except NoMemory:
            yield f"no memory for {copies}"
            return
        yield Copies(copies, memory_mb, step_s, copies * 3600 / (steps * step_s))
