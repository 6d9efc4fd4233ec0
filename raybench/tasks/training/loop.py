"""The training loop, and a classifier's epoch. An epoch depends on (weights, seed, epoch) only."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from raybench.datasets.data import Images
from raybench.errors import StageError
from raybench.methods.protocols import Regularizer
from raybench.models.strided import strided_in_nchw
from raybench.pauses import pause, paused_s
from raybench.progress.epochs import EPOCHS
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.protocol import Checkpoint, Training
from raybench.tasks.training.batches import training_batches
from raybench.tasks.training.computing import Computing, kernels, laid_out
from raybench.tasks.training.ema import Average
from raybench.tasks.training.optimize import set_rates
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.resizing import resized, size_at
from raybench.tasks.training.scale import Scale
from raybench.tasks.training.seeding import generator, seeded
from raybench.tasks.training.steps import Stepper
from raybench.tasks.training.team import ALONE, Team

PROBE_S = 2.0  # seconds of an epoch before its duration is estimated
Validate = Callable[[nn.Module], Mapping[str, float]]  # metrics on the split that selects the epoch


class TrainingInputs(Protocol):
    """Inputs of training besides the network, as far as the loop itself needs them."""

    @property
    def recipe(self) -> TrainRecipe:
        """Epochs, optimizer and the rest."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""


Inputs = TypeVar("Inputs", bound=TrainingInputs)


@dataclass(frozen=True)
class EpochInputs:
    """Inputs of a classifier's epoch besides the network."""

    images: Images
    recipe: TrainRecipe
    scale: Scale
    seed: int
    device: torch.device
    stepper: Stepper
    drop_last: bool = False  # whether images that fill no batch are left out of an epoch


def fit(
    model: nn.Module,
    inputs: Inputs,
    one_epoch: Callable[[TrainingState, Inputs, int], float],
    optimizer: torch.optim.Optimizer,
    *,
    checkpoint: Checkpoint,
    state: Mapping[str, Any] | None,
    regularizer: Regularizer | None,
    validate: Validate,
    metric: str,
    keep_best: bool,
    computing: Computing | None = None,
    team: Team = ALONE,
) -> Training:
    """Train `model` in place, from the `state` that `checkpoint` had; it ends with the selected epoch's weights.

    `one_epoch(progress, inputs, epoch)` is one pass over the training data and returns the mean loss. The result's
    `seconds_per_epoch` is the time of these passes without validation. StageError when a loss is NaN or infinite.
    """
    computing = computing or Computing()
    with kernels(inputs.device, computing), strided_in_nchw(model), laid_out(model, computing.strides), team.norms():
        average = Average(model, inputs.recipe.ema) if inputs.recipe.ema else None
        progress = TrainingState(model, optimizer, average, regularizer, computing.by_the_clock())
        if state is not None:
            progress.load(state)
        return _fit(progress, inputs, one_epoch, checkpoint, validate, metric, keep_best)


def _fit(
    progress: TrainingState, inputs: Inputs, one_epoch: Callable[[TrainingState, Inputs, int], float],
    checkpoint: Checkpoint, validate: Validate, metric: str, keep_best: bool,
) -> Training:  # fmt: skip
    """`fit` with the kernels and the memory format set, from the epoch that `progress` has reached."""
    recipe = inputs.recipe
    resumed, seconds, began = progress.epoch, 0.0, time.perf_counter()
    for epoch in range(resumed, recipe.epochs):
        started = time.perf_counter() - paused_s()
        loss = one_epoch(progress, inputs, epoch)
        seconds += time.perf_counter() - paused_s() - started
        _check_finite("training", loss, epoch, recipe)
        _close_epoch(progress, loss, validate, metric, keep_best)
        _check_finite("validation", progress.curve[-1]["loss"], epoch, recipe)
        checkpoint.save(progress.state())
        _log_epoch(progress, recipe, metric, (time.perf_counter() - began) / (progress.epoch - resumed))
    _keep_selected(progress, keep_best)
    ran = max(progress.epoch - resumed, 1)
    selected = progress.best_epoch if keep_best else progress.epoch
    return Training(tuple(progress.curve), selected, seconds / ran, resumed)


def run_epoch(progress: TrainingState, inputs: EpochInputs, epoch: int) -> float:
    """One pass over the training images of a classifier; returns the mean loss."""
    recipe, steps, team = inputs.recipe, inputs.stepper, inputs.stepper.team
    progress.model.train()
    total = torch.zeros((), device=inputs.device)
    with seeded(inputs.device, inputs.seed, epoch, "network", *team.marks):
        order = batch_order(len(inputs.images), inputs.seed, epoch, recipe.batch_size, inputs.drop_last)
        within = _WithinEpoch(epoch, recipe.epochs, sum(map(len, order)))
        draw, strides = generator(inputs.seed, epoch, "augment"), steps.computing.strides
        batches = training_batches(inputs.images, recipe, order, draw, inputs.scale, strides, team)
        for step, mixed in enumerate(batches):
            set_rates(progress.optimizer, progress.model, recipe, epoch + step / len(order))
            height, width = mixed.images.shape[-2:]
            batch = resized(mixed, size_at(recipe, (height, width), epoch))
            total += steps(progress, batch) * len(mixed.labels)
            pause()
            within.add(len(order[step]))
    steps.end_epoch(progress)
    return team.sums(float(total))[0] / sum(map(len, order))


def batch_order(count: int, seed: int, epoch: int, size: int, drop_last: bool) -> tuple[Tensor, ...]:
    """A random order of all images in batches of equal size (a small last batch would disturb batch norm).

    With `drop_last` all batches are full, unless there are too few images for one, and the rest is left out.
    """
    order = torch.randperm(count, generator=generator(seed, epoch, "shuffle"))
    if drop_last and count >= size:
        return order[: count - count % size].split(size)
    return order.tensor_split(-(-count // size))


def _check_finite(kind: str, loss: float, epoch: int, recipe: TrainRecipe) -> None:
    """StageError for a loss that is NaN or infinite."""
    if not math.isfinite(loss):
        message = f"the {kind} loss is {loss} in epoch {epoch + 1} of {recipe.epochs}"
        raise StageError("", f"{message}; lr {recipe.lr} may be too high")


def _close_epoch(progress: TrainingState, loss: float, validate: Validate, metric: str, keep_best: bool) -> None:
    """Validate, append the epoch to the curve, and keep its weights if it is the best."""
    if progress.regularizer is not None:
        progress.regularizer.end_epoch()
    progress.epoch += 1
    with progress.average.swapped_into(progress.model) if progress.average else nullcontext():
        found = validate(progress.model)
        if keep_best:
            progress.offer(found[metric], found["loss"], progress.model.state_dict())
    figures = {"lr": progress.optimizer.param_groups[0]["lr"], "train_loss": loss, "loss": found["loss"]}
    progress.curve.append({"epoch": progress.epoch, **figures, metric: found[metric]})


def _log_epoch(progress: TrainingState, recipe: TrainRecipe, metric: str, seconds: float) -> None:
    """Log the epoch that has just ended; `seconds` is an epoch's mean time with validation."""
    last = progress.curve[-1]
    values = (progress.epoch, recipe.epochs, last["train_loss"], metric, last[metric])
    known = {"left": seconds * (recipe.epochs - progress.epoch), "each": seconds}
    logging.getLogger(EPOCHS).info("epoch %d of %d: loss %.4g, %s %.2f %%", *values, extra=known)


class _WithinEpoch:
    """Logs how far an epoch is, where it takes longer than PROBE_S: the first estimate of what is to come."""

    def __init__(self, epoch: int, epochs: int, images: int) -> None:
        self._place, self._images, self._done = (epoch + 1, epochs), images, 0
        self._began = self._last = time.perf_counter()

    def add(self, images: int) -> None:
        """Count the images of a step."""
        self._done += images
        now = time.perf_counter()
        if now - self._last < PROBE_S or self._done >= self._images:
            return
        self._last, (number, epochs) = now, self._place
        each = (now - self._began) * self._images / self._done
        known = {"left": each * (epochs - number + 1) - (now - self._began), "each": each}
        values = (number, epochs, self._done, self._images)
        logging.getLogger(EPOCHS).info("epoch %d of %d: %d of %d images", *values, extra=known)


def _keep_selected(progress: TrainingState, keep_best: bool) -> None:
    """Load the selected weights into the model."""
    if keep_best and progress.best:
        progress.model.load_state_dict(progress.best)
    elif progress.average and progress.epoch:
        progress.model.load_state_dict(progress.average.weights)
