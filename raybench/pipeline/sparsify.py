"""Stage 2: training of the dense network with a sparsity regularizer, or of a selection that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from raybench import registry
from raybench.methods.protocols import Regularizer
from raybench.pipeline import base, cache, trained
from raybench.pipeline.context import Note, StageContext
from raybench.pipeline.network import groups_of, model_of
from raybench.storage.checkpoints import StageCheckpoint
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task
from raybench.tasks.protocol import Task

LONGEST_TIMED_EPOCH_S = 30.0  # a longer epoch is not repeated only for its timing


@dataclass(frozen=True)
class Sparsified:
    """The regularized network, as published in the stage cache."""

    folder: Path
    curve: tuple[dict[str, Any], ...]
    reg_time_s: float | None  # one sparsifying epoch, with the machine to itself
    timing_reason: str | None  # why reg_time_s is missing
    seconds: float


def run(trial: Trial, context: StageContext, note: Note) -> Sparsified:
    """Train the base of `trial` with its regularizer or trained selection, unless the result is in the stage cache."""
    key = trial.sparsify_key
    assert key is not None  # a sparsify unit has one of the two

    def build(folder: Path) -> dict[str, Any]:
        task = open_task(trial.at_own_size, context.data_roots, context.device, context.storage, context.team)
        dense = base.load(trial, context)
        model = model_of(dense.folder, trial, task, context.device)
        regularizer = _bound(trial, model, task)
        checkpoint = StageCheckpoint(context.storage, key)
        training = task.train(
            model, trial.recipe.sparsify, seed=trial.seed, checkpoint=checkpoint, regularizer=regularizer,
            select=_selects(trial),
        )  # fmt: skip
        trained.settle(regularizer, folder)
        note(resumed_from=training.resumed_from)
        seconds, reason = _time_epoch(trial, context, task, dense.folder, training.seconds_per_epoch)
        cache.save_weights(model, folder)
        return {"curve": training.curve, "reg_time_s": seconds, "timing_reason": reason}

    folder = cache.build_once(context, key, build)
    StageCheckpoint(context.storage, key).clear()
    return _read(folder)


def load(trial: Trial, context: StageContext) -> Sparsified | None:
    """Read the sparsified network from the stage cache; None for a method without this stage."""
    return _read(cache.read(context, trial.sparsify_key, "sparsify")) if trial.sparsify_key else None


def _selects(trial: Trial) -> Literal["last", "test"]:
    """Which sparse epoch is kept: the last, whose channels were shrunk longest; as published, the best on test data.

    A trained selection is done after the last epoch only.
    """
    return "test" if trial.protocol == "pruningbench" and not trial.importance.trained else "last"


def _bound(trial: Trial, model: nn.Module, task: Task) -> Regularizer:
    """The trial's regularizer or trained selection, bound to the groups of `model`."""
    if trial.importance.trained:
        return trained.attached(trial, model, task)
    ref = trial.regularizer
    assert ref is not None  # a sparsify unit has a regularizer
    regularizer: Regularizer = registry.regularizer.load(ref.name)(**ref.params)
    regularizer.bind(model, groups_of(model, trial, task))
    return regularizer


def _time_epoch(
    trial: Trial, context: StageContext, task: Task, dense: Path, expected_s: float
) -> tuple[float | None, str | None]:
    """Time one more sparsifying epoch on a copy, with the machine to itself: (seconds, None) or (None, why not)."""
    if expected_s > LONGEST_TIMED_EPOCH_S:
        return None, f"an epoch takes {expected_s:.0f} s: not repeated only for its timing"
    model = model_of(dense, trial, task, context.device)
    regularizer = _bound(trial, model, task)
    once = TrainRecipe(**{**trial.recipe.sparsify.model_dump(), "epochs": 1, "warmup_epochs": 0})
    return context.machine.timed(
        lambda: (
            task.train(
                model,
                once,
                seed=trial.seed,
                checkpoint=_NoCheckpoint(),
                regularizer=regularizer,
                select=_selects(trial),
            ).seconds_per_epoch
        )
    )


class _NoCheckpoint:
    """Checkpoint of an epoch that is only timed: it saves nothing."""

    def load(self) -> None:
        """None: nothing is saved."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


def _read(folder: Path) -> Sparsified:
    result = cache.result(folder)
    return Sparsified(folder, tuple(result["curve"]), result["reg_time_s"], result["timing_reason"], result["seconds"])
