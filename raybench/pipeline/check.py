"""Checks before a run: datasets open, weights load, networks fit the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from raybench import registry
from raybench.catalogue import reads_images
from raybench.errors import UserError
from raybench.groups.members import named
from raybench.models.foreign import ForeignError
from raybench.pipeline.network import example_of, fresh_model
from raybench.plan.records import Unit
from raybench.storage.base import Storage
from raybench.sweep.data_roots import check_fingerprint
from raybench.sweep.digests import digest
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task
from raybench.tasks.training.resizing import check_start


def check_input(
    units: Sequence[Unit],
    roots: Mapping[str, Path | str],
    storage: Storage,
    asked: Callable[[], bool] = lambda: True,
) -> dict[tuple[str, str], float]:
    """UserError listing every mistake in the datasets, weights and networks that `units` read from this machine.

    Networks are checked only if their base is still to be computed. Errors that are not the user's fail the cell later.
    Returns the work of an epoch, MACs of an image x training images, of each checked (dataset, model) where there are
    several: longer cells start first.

    `asked`: whether this process was asked to end; else a KeyboardInterrupt is a plug-in's own.
    """
    several = len({(unit.trials[0].dataset, unit.trials[0].model) for unit in units}) > 1
    inputs = _Inputs({name: Path(root) for name, root in roots.items()}, storage, weigh=several)
    mistakes: dict[str, None] = {}  # each once, in order
    for unit in units:
        try:
            inputs.check(unit)
        except ForeignError:
            continue  # its cells fail with this message as a row; the other networks' run
        except UserError as error:
            mistakes[str(error)] = None
        except BaseException as error:  # SystemExit, too
            if isinstance(error, KeyboardInterrupt) and asked():
                raise
            continue  # an error in a plug-in or in raybench: its cells fail or are skipped, with the message as a row
    if mistakes:
        raise UserError("\n  ".join(mistakes))
    return inputs.work


class _Inputs:
    """Datasets and networks that units read, each checked once."""

    def __init__(self, roots: Mapping[str, Path], storage: Storage, *, weigh: bool) -> None:
        """`weigh`: whether the work of an epoch is counted."""
        self.work: dict[tuple[str, str], float] = {}
        self._roots, self._storage, self._weigh = roots, storage, weigh
        self._tasks: dict[str, Task | None] = {}  # None: it couldn't be opened
        self._networks: set[str] = set()  # for all seeds
        self._starts: set[str] = set()

    def check(self, unit: Unit) -> None:
        """Whatever the code of a dataset, a model or raybench raises; UserError for a mistake of the sweep."""
        trial = unit.trials[0].at_own_size
        key = digest(trial.dataset, trial.dataset_params, trial.protocol)
        if key not in self._tasks:
            self._tasks[key] = None
            self._tasks[key] = self._opened(trial)
        if (task := self._tasks[key]) is None:
            return
        stages, images = _requirements(trial)
        task.check_recipe(stages, images)
        network = digest(key, trial.model, trial.model_params, trial.model_source, trial.weights.model_dump())
        if unit.kind == "base" and network not in self._networks:
            self._networks.add(network)
            self._check_network(trial, task)
        self._check_starts(trial, stages, task)

    def _opened(self, trial: Trial) -> Task:
        fingerprint, params = trial.dataset_fingerprint, trial.dataset_params
        check_fingerprint(trial.dataset, self._roots, fingerprint, params, quick=False)
        return open_task(trial, self._roots, torch.device("cpu"), self._storage)

    def _check_network(self, trial: Trial, task: Task) -> None:
        model = fresh_model(trial, task, torch.device("cpu"))
        task.check(model)
        for option, patterns in (("keep", trial.keep), ("only", trial.only)):
            named(model, patterns, option)
        if self._weigh:
            self.work[trial.dataset, trial.model] = _work(model, task)

    def _check_starts(self, trial: Trial, stages: Sequence[TrainRecipe], task: Task) -> None:
        """UserError where a stage has smaller images than the network takes."""
        for recipe in stages:
            if recipe.start_scale == 1:
                continue
            key = digest(
                trial.model, trial.model_params, trial.dataset, trial.dataset_params, recipe.start_scale, recipe.epochs
            )
            if key not in self._starts:
                self._starts.add(key)
                shape = task.data.image_shape
                check_start(fresh_model(trial, task, torch.device("cpu")), recipe, shape, trial.model)


def _work(model: nn.Module, task: Task) -> float:
    """MACs of an epoch of training; 0 where they can't be counted."""
    from raybench.groups.cost import count_macs

    try:
        macs = count_macs(model.eval(), example_of(task.data, torch.device("cpu")))
    except Exception:  # an operation that torch's counter doesn't take; the cells say what else is wrong
        return 0.0
    return float(macs * task.training_images)


def _requirements(trial: Trial) -> tuple[list[TrainRecipe], int]:
    """(recipes of the training stages of `trial`, number of calibration images that its criterion needs)."""
    recipe = trial.recipe
    criterion = registry.CHOICE.entry(trial.importance.name)
    calibration = recipe.calibration_images if reads_images(criterion, trial.importance.params) else 0
    return list(trial.stages), max(calibration, recipe.recalibration_images)
