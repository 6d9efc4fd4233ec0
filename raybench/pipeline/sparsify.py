"""Stage 2: train the dense network on under a sparsity regularizer, so that what can go grows small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from raybench import registry
from raybench.methods.protocols import Regularizer
from raybench.pipeline import base, cache
from raybench.pipeline.exclusive import SHARED
from raybench.pipeline.network import groups_of, model_of
from raybench.pipeline.room import Room
from raybench.spec.trial import TrainRecipe, Trial
from raybench.storage.checkpoints import StageCheckpoint
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task

LONGEST_TIMED_EPOCH_S = 30.0  # a longer one is not run again just to be timed


@dataclass(frozen=True)
class Sparsified:
    """The regularized network, as published in the stage cache."""

    folder: Path
    curve: tuple[dict[str, Any], ...]
    reg_time_s: float | None  # one sparsifying epoch, timed alone on the machine
    timing_reason: str | None  # why reg_time_s is missing
    seconds: float


def run(trial: Trial, room: Room, note: base.Note) -> Sparsified:
    """Sparsify the base of `trial` with its regularizer, unless the stage cache has it."""
    assert trial.sparsify_key

    def build(folder: Path) -> dict[str, Any]:
        task = open_task(trial, room.data_roots, room.device, room.storage)
        dense = base.load(trial, room)
        model = model_of(dense.folder, trial, task, room.device)
        regularizer = _bound(trial, model, task)
        checkpoint = StageCheckpoint(room.storage, trial.sparsify_key)
        training = task.train(
            model, trial.recipe.sparsify, seed=trial.seed, checkpoint=checkpoint, regularizer=regularizer, select="last"
        )
        note(resumed_from=training.resumed_from)
        seconds, reason = _time_epoch(trial, room, task, dense.folder, training.seconds_per_epoch)
        cache.save_weights(model, folder)
        return {"curve": training.curve, "reg_time_s": seconds, "timing_reason": reason}

    folder = cache.build_once(room, trial.sparsify_key, build)
    StageCheckpoint(room.storage, trial.sparsify_key).clear()
    return _read(folder)


def load(trial: Trial, room: Room) -> Sparsified | None:
    """The sparsified network that an earlier unit made; None for a method without a regularizer."""
    return _read(cache.read(room, trial.sparsify_key, "sparsify")) if trial.sparsify_key else None


def _bound(trial: Trial, model: nn.Module, task: Task) -> Regularizer:
    """The trial's regularizer, bound to the groups of `model`."""
    ref = trial.regularizer
    assert ref is not None
    regularizer: Regularizer = registry.regularizer.load(ref.name)(**ref.params)
    regularizer.bind(model, groups_of(model, trial, task))
    return regularizer


def _time_epoch(
    trial: Trial, room: Room, task: Task, dense: Path, expected_s: float
) -> tuple[float | None, str | None]:
    """Run one more sparsifying epoch on a copy, alone on this machine: (seconds, None) or (None, why not)."""
    if expected_s > LONGEST_TIMED_EPOCH_S:
        return None, f"an epoch takes {expected_s:.0f} s: not run again alone only to be timed"
    model = model_of(dense, trial, task, room.device)
    regularizer = _bound(trial, model, task)
    once = TrainRecipe(**{**trial.recipe.sparsify.model_dump(), "epochs": 1, "warmup_epochs": 0})
    with room.node.exclusive() as alone:
        if not alone:
            return None, SHARED
        training = task.train(
            model, once, seed=trial.seed, checkpoint=_Forgetful(), regularizer=regularizer, select="last"
        )
    return training.seconds_per_epoch, None


class _Forgetful:
    """The checkpoint of an epoch that is only timed."""

    def load(self) -> None:
        """Nothing was kept."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept."""


def _read(folder: Path) -> Sparsified:
    told = cache.result(folder)
    return Sparsified(folder, tuple(told["curve"]), told["reg_time_s"], told["timing_reason"], told["seconds"])
