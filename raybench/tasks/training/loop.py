"""The training loop of a classifier: one epoch after another, each a function of (weights, seed, epoch) alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raybench.datasets.data import Images
from raybench.errors import StageError
from raybench.methods.protocols import Regularizer
from raybench.progress.epochs import EPOCHS
from raybench.spec.trial import TrainRecipe
from raybench.tasks.protocol import Checkpoint, Training
from raybench.tasks.training.augment import augmented, erased, randaugmented
from raybench.tasks.training.ema import Average
from raybench.tasks.training.loss import training_loss
from raybench.tasks.training.mix import mix
from raybench.tasks.training.optimize import learning_rate, make_optimizer
from raybench.tasks.training.progress import Progress
from raybench.tasks.training.seeding import deterministic, generator, seeded

Validate = Callable[[nn.Module], Mapping[str, float]]  # the metrics of the split that selects


@dataclass(frozen=True)
class Lesson:
    """What one epoch needs beside the network."""

    images: Images
    recipe: TrainRecipe
    normalise: Callable[[Tensor], Tensor]
    seed: int
    device: torch.device
    teacher: nn.Module | None = None


def fit(
    model: nn.Module,
    lesson: Any,  # a Lesson, or what `one_epoch` takes; has recipe, seed and device
    *,
    checkpoint: Checkpoint,
    regularizer: Regularizer | None,
    validate: Validate,
    metric: str,
    keep_best: bool,
    one_epoch: Callable[[Progress, Any, int], float] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Training:
    """Train `model` in place, continuing at the checkpoint's epoch; it ends with the selected epoch's weights.

    `one_epoch`: the pass over the training data, `run_epoch` unless the task has its own; `optimizer` likewise.

    `seconds_per_epoch` times the passes over the training images, not the validation behind each.
    StageError when the loss stops being a number.
    """
    recipe, device = lesson.recipe, lesson.device
    average = Average(model, recipe.ema) if recipe.ema else None
    progress = Progress(model, optimizer or make_optimizer(model, recipe, device), average, regularizer)
    state = checkpoint.load()
    if state is not None:
        progress.load(state)
    resumed, seconds, began = progress.epoch, 0.0, time.perf_counter()
    with deterministic(device):
        for epoch in range(resumed, recipe.epochs):
            started = time.perf_counter()
            loss = (one_epoch or run_epoch)(progress, lesson, epoch)
            seconds += time.perf_counter() - started
            if not torch.isfinite(torch.tensor(loss)):
                told = f"the training loss is {loss} in epoch {epoch + 1} of {recipe.epochs}"
                raise StageError("train", f"{told}; lr {recipe.lr} may be too high")
            _close_epoch(progress, lesson, loss, validate, metric, keep_best)
            checkpoint.save(progress.state())
            _tell(progress, recipe, metric, (time.perf_counter() - began) / (progress.epoch - resumed))
    _take(progress, keep_best)
    ran = max(progress.epoch - resumed, 1)
    selected = progress.best_epoch if keep_best else progress.epoch
    return Training(tuple(progress.curve), selected, seconds / ran, resumed)


def run_epoch(progress: Progress, lesson: Lesson, epoch: int) -> float:
    """One pass over the training images; returns the mean loss."""
    model, recipe = progress.model.train(), lesson.recipe
    total = torch.zeros((), device=lesson.device)
    amp = torch.autocast(lesson.device.type, torch.bfloat16) if recipe.amp else nullcontext()
    with seeded(lesson.device, lesson.seed, epoch, "network"):
        batches = list(_batch_order(lesson, epoch))
        for step, (images, labels, draw) in enumerate(_batches(lesson, epoch, batches)):
            for group in progress.optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch + step / len(batches))
            mixed = mix(erased(lesson.normalise(images), recipe, draw), labels, recipe, draw)
            with amp:
                loss = training_loss(model(mixed.images), mixed, recipe, lesson.teacher)
            take_step(progress, recipe, loss)
            total += loss.detach() * len(labels)
    return float(total) / len(lesson.images)


def take_step(progress: Progress, recipe: TrainRecipe, loss: Tensor) -> None:
    """One update of the weights (and of their average) down the gradient of `loss` and of the penalty."""
    progress.optimizer.zero_grad()
    loss.backward()
    if progress.regularizer is not None:
        progress.regularizer.add_gradients()
    if recipe.clip_grad:
        torch.nn.utils.clip_grad_norm_(progress.model.parameters(), recipe.clip_grad)
    progress.optimizer.step()
    if progress.average is not None:
        progress.average.update(progress.model)


def _batch_order(lesson: Lesson, epoch: int) -> tuple[Tensor, ...]:
    """A fresh order of all images, cut into equal batches (no small last one, which would upset batch norm)."""
    count = len(lesson.images)
    order = torch.randperm(count, generator=generator(lesson.seed, epoch, "shuffle"))
    return order.tensor_split(-(-count // lesson.recipe.batch_size))


def _batches(lesson: Lesson, epoch: int, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """(augmented images in 0..1, labels, generator) of each batch."""
    draw = generator(lesson.seed, epoch, "augment")
    crops = None
    if "resized-crop" in lesson.recipe.augment:
        crops = [torch.rand(len(indices), 4, generator=draw) for indices in order]
    loaded = lesson.images.batches(order, lesson.device, crops)
    for indices, images in zip(order, loaded, strict=True):
        images = randaugmented(augmented(images, lesson.recipe, draw), lesson.recipe, draw)
        yield images, lesson.images.labels[indices].to(lesson.device), draw


def _close_epoch(
    progress: Progress, lesson: Any, loss: float, validate: Validate, metric: str, keep_best: bool
) -> None:
    """Validate, note the epoch in the curve and remember it if it is the best."""
    if progress.regularizer is not None:
        progress.regularizer.end_epoch()
    progress.epoch += 1
    with progress.average.swapped_into(progress.model) if progress.average else nullcontext():
        found = validate(progress.model)
        if keep_best:
            progress.offer(found[metric], found["loss"], progress.model.state_dict())
    told = {"lr": progress.optimizer.param_groups[0]["lr"], "train_loss": loss, "loss": found["loss"]}
    progress.curve.append({"epoch": progress.epoch, **told, metric: found[metric]})


def _tell(progress: Progress, recipe: TrainRecipe, metric: str, seconds: float) -> None:
    """Log the epoch that has just ended; `seconds`: what one takes, its validation included."""
    last = progress.curve[-1]
    told = (progress.epoch, recipe.epochs, last["train_loss"], metric, last[metric])
    left = seconds * (recipe.epochs - progress.epoch)
    logging.getLogger(EPOCHS).info("epoch %d of %d: loss %.4g, %s %.2f %%", *told, extra={"left": left})


def _take(progress: Progress, keep_best: bool) -> None:
    """Leave the selected weights in the model."""
    if keep_best and progress.best:
        progress.model.load_state_dict(progress.best)
    elif progress.average and progress.epoch:
        progress.model.load_state_dict(progress.average.weights)
