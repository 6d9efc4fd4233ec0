"""Stage 1: the dense network that every method starts from, trained or loaded, and evaluated once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybench.pipeline import cache
from raybench.pipeline.network import fresh_model
from raybench.pipeline.room import Room
from raybench.spec.trial import Trial
from raybench.storage.checkpoints import StageCheckpoint
from raybench.tasks.open import open_task

Note = Callable[..., None]  # note(resumed_from=3): facts for the journal


@dataclass(frozen=True)
class Base:
    """The dense network, as published in the stage cache."""

    folder: Path
    sha256: str  # of its weights file
    metrics: dict[str, float]  # on the test split, percent
    curve: tuple[dict[str, Any], ...]
    seconds: float


def run(trial: Trial, room: Room, note: Note) -> Base:
    """Train (or load) and evaluate the dense base of `trial`, unless the stage cache has it."""

    def build(folder: Path) -> dict[str, Any]:
        task = open_task(trial, room.data_roots, room.device, room.storage)
        model = fresh_model(trial, task, room.device)
        curve: tuple = ()
        checkpoint = StageCheckpoint(room.storage, trial.base_key)
        if trial.weights.kind == "trained":
            select = "test" if trial.protocol == "pruningbench" else "val"
            training = task.train(model, trial.recipe.base, seed=trial.base_seed, checkpoint=checkpoint, select=select)
            note(resumed_from=training.resumed_from)
            curve = training.curve
        metrics = task.evaluate(model, "test")
        return {"sha256": cache.save_weights(model, folder), "metrics": metrics, "curve": curve}

    folder = cache.build_once(room, trial.base_key, build)
    StageCheckpoint(room.storage, trial.base_key).clear()
    return _read(folder)


def load(trial: Trial, room: Room) -> Base:
    """The base that an earlier unit made."""
    return _read(cache.read(room, trial.base_key, "base"))


def _read(folder: Path) -> Base:
    told = cache.result(folder)
    return Base(folder, told["sha256"], told["metrics"], tuple(told["curve"]), told["seconds"])
