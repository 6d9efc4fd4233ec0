"""Opens the task and the dataset of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from raybench import registry
from raybench.datasets.open import open_dataset
from raybench.errors import UserError
from raybench.storage.base import Storage
from raybench.sweep.data_roots import check_fingerprint, data_root
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task


def open_task(
    trial: Trial, data_roots: Mapping[str, Path], device: torch.device, storage: Storage | None = None
) -> Task:
    """The task of `trial` on its dataset; UserError when the data is missing or for another task.

    Detection labels, which take long to read and check, are cached in `storage`.
    """
    expected = registry.dataset.entry(trial.dataset).facts.get("task", "classification")
    if expected != trial.task:
        raise UserError(f"dataset {trial.dataset!r} is for {expected}, found task {trial.task!r}")
    check_fingerprint(trial.dataset, data_roots, trial.dataset_fingerprint)
    data = open_dataset(trial.dataset, trial.dataset_params, data_root(trial.dataset, data_roots))
    if hasattr(data, "opened"):
        data = data.opened(storage)
    if trial.weights.kind == "hub" and trial.dataset_params.get("statistics", "own") == "own":
        from raybench.models.hub import view_of

        view = view_of(trial.weights.identity)
        data = data.seen_as(view) if view and trial.task == "classification" else data
    if trial.protocol == "pruningbench":
        data = data.training_on_all()  # epochs are selected on the test split, so nothing is held out
    task: Task = registry.task.load(trial.task)(data, device)
    return task
