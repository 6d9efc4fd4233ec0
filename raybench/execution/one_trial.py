"""Runs a function of one trial in this process, as a unit of a run is run: its device, its threads, its settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from raybench.execution.isolation import isolated
from raybench.execution.worker import Assignment, device_of
from raybench.pipeline.context import StageContext
from raybench.progress.epochs import report_epochs
from raybench.storage.open import open_storage
from raybench.storage.patient import patient
from raybench.sweep.trial import Trial

Found = TypeVar("Found")


def in_this_process(
    trial: Trial, assignment: Assignment, work: Callable[[StageContext], Found], say: Callable[[str], None]
) -> Found:
    """Call `work` with the context of a stage.

    Args:
        trial: its device kind and its threads count.
        assignment: storage, data folders and device.
        work: what is done.
        say: called with lines about training.

    Raises:
        UserError: there is no such device here.
    """
    context = StageContext(
        storage=patient(open_storage(assignment.storage), say),
        device=device_of(assignment, trial.device),
        data_roots={name: Path(root) for name, root in assignment.data_roots.items()},
        cpus=assignment.cpus,
    )
    with isolated(trial.base_key, trial.threads or assignment.threads), report_epochs(say):
        return work(context)
