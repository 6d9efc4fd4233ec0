"""Stage 1: the dense network that every method starts from, trained or loaded, and evaluated once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from raybench.pipeline import cache
from raybench.pipeline.context import Note, StageContext
from raybench.pipeline.network import fresh_model, model_of
from raybench.pipeline.transferred import given_weights
from raybench.storage.checkpoints import StageCheckpoint
from raybench.storage.sealed import FILES
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task

NEAR_CHANCE = 0.05  # of the way from chance to 100 %


@dataclass(frozen=True)
class Base:
    """The dense network, as published in the stage cache."""

    folder: Path
    sha256: str  # of its weights file
    metrics: dict[str, float]  # on the test split, percent
    curve: tuple[dict[str, Any], ...]
    seconds: float


def run(trial: Trial, context: StageContext, note: Note) -> Base:
    """Train (or load) and evaluate the dense base of `trial`, unless it is in the stage cache."""

    def build(folder: Path) -> dict[str, Any]:
        task = open_task(trial.at_own_size, context.data_roots, context.device, context.storage, context.team)
        model = _start(trial, task, context)
        curve: tuple[Mapping[str, float], ...] = ()
        checkpoint = StageCheckpoint(context.storage, trial.base_key)
        if trial.weights.trained:
            select: Literal["val", "test"] = "test" if trial.protocol == "pruningbench" else "val"
            training = task.train(model, trial.recipe.base, seed=trial.base_seed, checkpoint=checkpoint, select=select)
            note(resumed_from=training.resumed_from)
            curve = training.curve
        metrics = task.evaluate(model, "test")
        if not trial.weights.trained:
            _warn_near_chance(metrics, task.data.classes)
        cache.save_weights(model, folder)
        return {"metrics": metrics, "curve": curve}

    folder = cache.build_once(context, trial.base_key, build)
    StageCheckpoint(context.storage, trial.base_key).clear()
    return _read(folder)


def start_of(folder: Path, trial: Trial, task: Task, context: StageContext) -> nn.Module:
    """The network that channels are chosen in: of the stage in `folder`, or as it came from the source data."""
    return _start(trial, task, context) if trial.prunes_first else model_of(folder, trial, task, context.device)


def _start(trial: Trial, task: Task, context: StageContext) -> nn.Module:
    """The network before any training on the trial's data."""
    given = given_weights(trial, context)
    return fresh_model(trial, task, context.device, *([given] if given else []))


def _warn_near_chance(metrics: Mapping[str, float], classes: int) -> None:
    """Warn when loaded weights classify hardly better than guessing: they are of other data, or of another size."""
    chance, top1 = 100 / max(classes, 1), metrics.get("top1")
    if top1 is not None and top1 < chance + NEAR_CHANCE * (100 - chance):
        warnings.warn(
            f"the loaded weights score near chance: top1 {top1:.2f} % of {classes} classes. Were they trained on these "
            "classes in this order, at this image size and with this normalisation?",
            stacklevel=2,
        )


def load(trial: Trial, context: StageContext) -> Base:
    """Read the base from the stage cache."""
    return _read(cache.read(context, trial.base_key, "base"))


def _read(folder: Path) -> Base:
    result = cache.result(folder)
    sha256 = result[FILES][cache.WEIGHTS]  # checked whenever the weights are read
    return Base(folder, sha256, result["metrics"], tuple(result["curve"]), result["seconds"])
