"""The training loop, and a classifier's epoch. An epoch depends on (weights, seed, epoch) only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from raybench.datasets.data import Images
from raybench.errors import StageError
from raybench.methods.protocols import Regularizer
from raybench.models.strided import strided_in_nchw
from raybench.progress.epochs import EPOCHS
from raybench.sweep.trial import TrainRecipe
from raybench.tasks.protocol import Checkpoint, Training
from raybench.tasks.training.augment import augmented, erased, randaugmented
from raybench.tasks.training.ema import Average
from raybench.tasks.training.loss import training_loss
from raybench.tasks.training.mix import mix
from raybench.tasks.training.optimize import learning_rate
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.seeding import deterministic, generator, seeded

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
    normalise: Callable[[Tensor], Tensor]
    seed: int
    device: torch.device
    teacher: nn.Module | None = None
    drop_last: bool = False  # whether images that fill no batch are left out of an epoch


def fit(
    model: nn.Module,
    inputs: Inputs,
    one_epoch: Callable[[TrainingState, Inputs, int], float],
    optimizer: torch.optim.Optimizer,
    *,
    checkpoint: Checkpoint,
    regularizer: Regularizer | None,
    validate: Validate,
    metric: str,
    keep_best: bool,
) -> Training:
    """Train `model` in place, resuming from `checkpoint`; it ends with the selected epoch's weights.

    `one_epoch(progress, inputs, epoch)` is one pass over the training data and returns the mean loss. The result's
    `seconds_per_epoch` is the time of these passes without validation. StageError when the loss is NaN or infinite.
    """
    recipe, device = inputs.recipe, inputs.device
    average = Average(model, recipe.ema) if recipe.ema else None
    progress = TrainingState(model, optimizer, average, regularizer)
    state = checkpoint.load()
    if state is not None:
        progress.load(state)
    resumed, seconds, began = progress.epoch, 0.0, time.perf_counter()
    with deterministic(device), strided_in_nchw(model):
        for epoch in range(resumed, recipe.epochs):
            started = time.perf_counter()
            loss = one_epoch(progress, inputs, epoch)
            seconds += time.perf_counter() - started
            if not torch.isfinite(torch.tensor(loss)):
                message = f"the training loss is {loss} in epoch {epoch + 1} of {recipe.epochs}"
                raise StageError("train", f"{message}; lr {recipe.lr} may be too high")
            _close_epoch(progress, loss, validate, metric, keep_best)
            checkpoint.save(progress.state())
            _log_epoch(progress, recipe, metric, (time.perf_counter() - began) / (progress.epoch - resumed))
    _keep_selected(progress, keep_best)
    ran = max(progress.epoch - resumed, 1)
    selected = progress.best_epoch if keep_best else progress.epoch
    return Training(tuple(progress.curve), selected, seconds / ran, resumed)


def run_epoch(progress: TrainingState, inputs: EpochInputs, epoch: int) -> float:
    """One pass over the training images of a classifier; returns the mean loss."""
    model, recipe = progress.model.train(), inputs.recipe
    total = torch.zeros((), device=inputs.device)
    amp = torch.autocast(inputs.device.type, torch.bfloat16) if recipe.amp else nullcontext()
    with seeded(inputs.device, inputs.seed, epoch, "network"):
        batches = _batch_order(inputs, epoch)
        for step, (images, labels, draw) in enumerate(_batches(inputs, epoch, batches)):
            for group in progress.optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch + step / len(batches))
            mixed = mix(erased(inputs.normalise(images), recipe, draw), labels, recipe, draw)
            with amp:
                loss = training_loss(model(mixed.images), mixed, recipe, inputs.teacher)
            take_step(progress, recipe, loss)
            total += loss.detach() * len(labels)
    return float(total) / sum(map(len, batches))


def take_step(progress: TrainingState, recipe: TrainRecipe, loss: Tensor) -> None:
    """One optimizer step on `loss` and the regularizer's penalty; updates the moving average, too."""
    progress.optimizer.zero_grad()
    loss.backward()
    if progress.regularizer is not None:
        progress.regularizer.add_gradients()
    if recipe.clip_grad:
        torch.nn.utils.clip_grad_norm_(progress.model.parameters(), recipe.clip_grad)
    progress.optimizer.step()
    if progress.average is not None:
        progress.average.update(progress.model)


def _batch_order(inputs: EpochInputs, epoch: int) -> tuple[Tensor, ...]:
    """A random order of all images in batches of equal size (a small last batch would disturb batch norm).

    With `drop_last` all batches are full, unless there are too few images for one, and the rest is left out.
    """
    count, size = len(inputs.images), inputs.recipe.batch_size
    order = torch.randperm(count, generator=generator(inputs.seed, epoch, "shuffle"))
    if inputs.drop_last and count >= size:
        return order[: count - count % size].split(size)
    return order.tensor_split(-(-count // size))


def _batches(
    inputs: EpochInputs, epoch: int, order: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """(augmented images in 0..1, labels, generator) of each batch."""
    draw = generator(inputs.seed, epoch, "augment")
    crops = None
    if "resized-crop" in inputs.recipe.augment:
        crops = [torch.rand(len(indices), 4, generator=draw) for indices in order]
    loaded = inputs.images.batches(order, inputs.device, crops)
    for indices, images in zip(order, loaded, strict=True):
        images = randaugmented(augmented(images, inputs.recipe, draw), inputs.recipe, draw)
        yield images, inputs.images.labels[indices].to(inputs.device), draw


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
    left = seconds * (recipe.epochs - progress.epoch)
    logging.getLogger(EPOCHS).info("epoch %d of %d: loss %.4g, %s %.2f %%", *values, extra={"left": left})


def _keep_selected(progress: TrainingState, keep_best: bool) -> None:
    """Load the selected weights into the model."""
    if keep_best and progress.best:
        progress.model.load_state_dict(progress.best)
    elif progress.average and progress.epoch:
        progress.model.load_state_dict(progress.average.weights)
