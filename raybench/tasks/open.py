"""Opens the task and the dataset of a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raybench import registry
from raybench.datasets.open import open_dataset
from raybench.errors import RaybenchError, UserError
from raybench.storage.base import Storage
from raybench.sweep.data_roots import check_fingerprint, data_root
from raybench.sweep.image_sizes import own_size, sized
from raybench.sweep.speed import TASKS
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task
from raybench.tasks.shared import SharedTask
from raybench.tasks.training.team import ALONE, Alone, Peers


def open_task(
    trial: Trial,
    data_roots: Mapping[str, Path],
    device: torch.device,
    storage: Storage | None = None,
    team: Alone | Peers = ALONE,
) -> Task:
    """The task of `trial` on its dataset; UserError when the data is missing or for another task.

    Detection labels, which take long to read and check, are cached in `storage`. Of several processes in a `team` the
    first gets a task whose calls the others share.
    """
    expected = registry.dataset.entry(trial.dataset).facts.get("task", "classification")
    if expected != trial.task:
        raise UserError(f"dataset {trial.dataset!r} is for {expected}, found task {trial.task!r}")
    check_fingerprint(trial.dataset, data_roots, trial.dataset_fingerprint, trial.dataset_params)
    root = data_root(trial.dataset, data_roots)
    with _reading(trial.dataset, root):
        data = _opened(trial, root, storage)
    if trial.weights.kind == "hub" and trial.dataset_params.get("statistics", "own") == "own":
        from raybench.models.hub import view_of

        view = view_of(trial.weights.identity)
        data = data.seen_as(view) if view and trial.task == "classification" else data
    if trial.protocol == "pruningbench":
        data = data.training_on_all()  # epochs are selected on the test split, so nothing is held out
    kind = registry.task.load(trial.task)
    task: Task = kind(data, device, trial.speed, team) if trial.task in TASKS else kind(data, device, team=team)
    return SharedTask(task, team) if isinstance(team, Peers) and team.rank == 0 else task


def _opened(trial: Trial, root: Path | None, storage: Storage | None) -> Any:
    """The dataset at the trial's image size."""
    entry, size = registry.dataset.entry(trial.dataset), trial.image_size
    params = trial.dataset_params if size is None else sized(entry, trial.dataset_params, size)
    data = open_dataset(trial.dataset, params, root)
    if hasattr(data, "opened"):
        data = data.opened(storage)
    if size is None:
        return data
    if params == trial.dataset_params:
        return data.resized(size)
    return replace(data, facts=replace(data.facts, built_for=own_size(entry, trial.dataset_params)))


@contextmanager
def _reading(dataset: str, root: Path | None) -> Iterator[None]:
    """Turn what a dataset's reader didn't foresee into a UserError that names the folder; not errors of the storage."""
    try:
        yield
    except RaybenchError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and not Path(str(error.filename)).is_relative_to(root or "/nowhere"):
            raise
        message = str(error).splitlines()[0] if str(error) else "no message"
        problem = f"reading it failed with {type(error).__name__}: {message}"
        raise UserError(f"dataset {dataset!r}: {root or 'embedded'}: {problem}") from error
