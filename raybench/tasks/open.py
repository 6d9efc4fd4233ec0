"""A trial -> its task, with the data opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from raybench import registry
from raybench.datasets.open import open_dataset
from raybench.datasets.roots import data_root
from raybench.errors import UserError
from raybench.spec.trial import Trial
from raybench.storage.base import Storage
from raybench.tasks.protocol import Task


def open_task(
    trial: Trial, data_roots: Mapping[str, Path], device: torch.device, storage: Storage | None = None
) -> Task:
    """The task of `trial` on its dataset; UserError when the data isn't there or is for another task.

    What takes long to read and check once (a detection set's labels) is kept in `storage` between cells.
    """
    expected = registry.dataset.entry(trial.dataset).facts.get("task", "classification")
    if expected != trial.task:
        raise UserError(f"dataset {trial.dataset!r} is for {expected}, found task {trial.task!r}")
    data = open_dataset(trial.dataset, trial.dataset_params, data_root(trial.dataset, data_roots))
    if hasattr(data, "opened"):
        data = data.opened(storage)
    if trial.weights.kind == "hub" and trial.dataset_params.get("statistics", "own") == "own":
        from raybench.models.hub import view_of

        view = view_of(trial.weights.identity)
        data = data.seen_as(view) if view and trial.task == "classification" else data
    if trial.protocol == "pruningbench":
        data = data.training_on_all()  # the best epoch is the best on the test split: nothing is held out
    return registry.task.load(trial.task)(data, device)
