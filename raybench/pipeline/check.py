"""Checks before a run: datasets open, weights load, networks fit the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from raybench import registry
from raybench.catalogue import needs_images
from raybench.errors import UserError
from raybench.models.foreign import ForeignError
from raybench.pipeline.network import fresh_model
from raybench.plan.records import Unit
from raybench.storage.base import Storage
from raybench.sweep.data_roots import check_fingerprint
from raybench.sweep.trial import TrainRecipe, Trial, digest
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task
from raybench.tasks.training.resizing import check_start


def check_input(units: Sequence[Unit], roots: Mapping[str, Path | str], storage: Storage) -> None:
    """UserError listing every mistake in the datasets, weights and networks that `units` read from this machine.

    Networks are checked only if their base is still to be computed. Errors that are not the user's fail the cell later.
    """
    data_roots = {name: Path(root) for name, root in roots.items()}
    mistakes: dict[str, None] = {}  # each once, in order
    tasks: dict[str, Task | None] = {}
    networks: set[str] = set()  # checked once for all seeds
    for unit in units:
        trial = unit.trials[0]
        key = digest(trial.dataset, trial.dataset_params, trial.protocol)
        network = digest(key, trial.model, trial.model_params, trial.model_source, trial.weights.model_dump())
        try:
            if key not in tasks:
                tasks[key] = None
                check_fingerprint(
                    trial.dataset, data_roots, trial.dataset_fingerprint, trial.dataset_params, quick=False
                )
                tasks[key] = open_task(trial, data_roots, torch.device("cpu"), storage)
            if (task := tasks[key]) is not None:
                stages, images = _requirements(trial)
                task.check_recipe(stages, images)
                if unit.kind == "base" and network not in networks:
                    networks.add(network)
                    task.check(fresh_model(trial, task, torch.device("cpu")))
                _check_starts(trial, stages, task, networks)
        except ForeignError:
            continue  # its cells fail with this message as a row; the other networks' run
        except UserError as error:
            mistakes[str(error)] = None
        except KeyboardInterrupt:
            raise
        except BaseException:  # SystemExit, too
            continue  # an error in a plug-in or in raybench: its cells fail or are skipped, with the message as a row
    if mistakes:
        raise UserError("\n  ".join(mistakes))


def _check_starts(trial: Trial, stages: Sequence[TrainRecipe], task: Task, known: set[str]) -> None:
    """UserError where a stage starts with smaller images than the network takes; each network and stage once."""
    for recipe in stages:
        if recipe.start_scale == 1:
            continue
        key = digest(trial.model, trial.model_params, trial.dataset, trial.dataset_params, recipe.start_scale)
        if key not in known:
            known.add(key)
            shape = task.data.image_shape
            check_start(fresh_model(trial, task, torch.device("cpu")), recipe, shape, trial.model)


def _requirements(trial: Trial) -> tuple[list[TrainRecipe], int]:
    """(recipes of the training stages of `trial`, number of calibration images that its criterion needs)."""
    recipe = trial.recipe
    stages = [recipe.base] if trial.weights.trained else []
    stages += [recipe.sparsify] if trial.regularizer else []
    needs = registry.importance.entry(trial.importance.name).facts.get("needs", "weights")
    calibration = recipe.calibration_images if needs_images(needs) else 0
    return [*stages, recipe.finetune], max(calibration, recipe.recalibration_images)
