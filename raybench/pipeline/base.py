"""Stage 1: the dense network that every method starts from, trained or loaded, and evaluated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raybench.pipeline import cache
from raybench.pipeline.context import Note, StageContext
from raybench.pipeline.network import fresh_model
from raybench.storage.checkpoints import StageCheckpoint
from raybench.storage.sealed import FILES
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task


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
        task = open_task(trial, context.data_roots, context.device, context.storage)
        model = fresh_model(trial, task, context.device)
        curve: tuple[Mapping[str, float], ...] = ()
        checkpoint = StageCheckpoint(context.storage, trial.base_key)
        if trial.weights.kind == "trained":
            select: Literal["val", "test"] = "test" if trial.protocol == "pruningbench" else "val"
            training = task.train(model, trial.recipe.base, seed=trial.base_seed, checkpoint=checkpoint, select=select)
            note(resumed_from=training.resumed_from)
            curve = training.curve
        metrics = task.evaluate(model, "test")
        cache.save_weights(model, folder)
        return {"metrics": metrics, "curve": curve}

    folder = cache.build_once(context, trial.base_key, build)
    StageCheckpoint(context.storage, trial.base_key).clear()
    return _read(folder)


def load(trial: Trial, context: StageContext) -> Base:
    """Read the base from the stage cache."""
    return _read(cache.read(context, trial.base_key, "base"))


def _read(folder: Path) -> Base:
    result = cache.result(folder)
    sha256 = result[FILES][cache.WEIGHTS]  # checked whenever the weights are read
    return Base(folder, sha256, result["metrics"], tuple(result["curve"]), result["seconds"])
