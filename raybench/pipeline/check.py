"""What a run is about to read, looked at before a second of training: data opened, networks built and filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from raybench import registry
from raybench.errors import UserError
from raybench.pipeline.network import fresh_model
from raybench.plan import Unit
from raybench.spec.resolve import NO_DATA
from raybench.spec.trial import TrainRecipe, Trial, digest
from raybench.storage.base import Storage
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task


def check_input(units: Sequence[Unit], roots: Mapping[str, Path | str], storage: Storage) -> None:
    """UserError with every mistake in what `units` read from this machine: datasets, weights, networks for the classes.

    Networks are looked at where their base is still to be made. What isn't the person's mistake is left to the cell.
    """
    data_roots = {name: Path(root) for name, root in roots.items()}
    mistakes: dict[str, None] = {}  # each once, in order
    tasks: dict[str, Task | None] = {}
    networks: set[str] = set()  # one for all seeds
    for unit in units:
        trial = unit.trials[0]
        key = digest(trial.dataset, trial.dataset_params, trial.protocol)
        network = digest(key, trial.model, trial.model_params, trial.model_source, trial.weights.model_dump())
        try:
            if key not in tasks:
                tasks[key] = None
                tasks[key] = open_task(trial, data_roots, torch.device("cpu"), storage)
            if (task := tasks[key]) is not None:
                task.check_recipe(*_asked(trial))
                if unit.kind == "base" and network not in networks:
                    networks.add(network)
                    task.check(fresh_model(trial, task, torch.device("cpu")))
        except UserError as error:
            mistakes[str(error)] = None
        except Exception:
            continue  # a plug-in's own fault, or a limit of ours: its cells fail or are skipped, and their rows say how
    if mistakes:
        raise UserError("\n  ".join(mistakes))


def _asked(trial: Trial) -> tuple[list[TrainRecipe], int]:
    """(the training stages that `trial` goes through, calibration images that its criterion looks at)."""
    recipe = trial.recipe
    stages = [recipe.base] if trial.weights.kind == "trained" else []
    stages += [recipe.sparsify] if trial.regularizer else []
    needs = registry.importance.entry(trial.importance.name).facts.get("needs", "weights")
    return [*stages, recipe.finetune], 0 if needs in NO_DATA else recipe.calibration_images
