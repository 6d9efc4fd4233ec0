"""One epoch of a detector as ultralytics' trainer runs it, on modules that stay as they were pruned.

The trainer itself rebuilds a model from its configuration, so its parts are put together here: its augmentation,
loss, parameter groups, warm-up and moving average. What isn't saved is a function of (seed, epoch) alone.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from raybench.datasets.boxes import BoxData
from raybench.errors import UserError
from raybench.models.offline import offline
from raybench.models.ultralytics import Detector, normalised
from raybench.spec.trial import TrainRecipe
from raybench.tasks.detection_images import Augment, TrainingImages, workers_for
from raybench.tasks.training.loop import take_step
from raybench.tasks.training.optimize import learning_rate, optimizer_over
from raybench.tasks.training.progress import Progress
from raybench.tasks.training.seeding import generator, seeded

with offline():
    from ultralytics.utils.loss import v8DetectionLoss

NO_AUGMENT: Augment = dict.fromkeys(
    ("mosaic", "mixup", "copy_paste", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "flipud"), 0.0
)
AUGMENT: dict[str, Augment] = {  # ultralytics' defaults, by the name that a recipe's `augment` gives them
    "mosaic": {"mosaic": 1.0},
    "hsv": {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4},
    "shift": {"translate": 0.1},
    "scale": {"scale": 0.5},
    "flip": {"fliplr": 0.5},
}
CLOSE_MOSAIC = 10  # last epochs without mosaics, a tenth of them where there are fewer than 100
WARM_UP_MOMENTUM, WARM_UP_BIAS_LR = 0.8, 0.1  # where SGD starts, ultralytics' defaults
AVERAGE_RAMP = 2000  # steps, ultralytics' tau


@dataclass(frozen=True)
class Lesson:
    """What one epoch needs beside the network."""

    data: BoxData
    recipe: TrainRecipe
    seed: int
    device: torch.device
    loss: v8DetectionLoss


def run_epoch(progress: Progress, lesson: Lesson, epoch: int) -> float:
    """One pass over the augmented training images; returns the mean loss an image.

    The learning rate is that of ultralytics' loss, which is summed over the batch.
    """
    model, recipe = progress.model.train(), lesson.recipe
    images = TrainingImages(
        lesson.data.train, lesson.data.names, lesson.data.facts.image_size, augmentation(recipe, epoch)
    )
    count, total = len(images), torch.zeros((), device=lesson.device)
    order = torch.randperm(count, generator=generator(lesson.seed, epoch, "shuffle"))
    batches = [part.numpy() for part in order.tensor_split(-(-count // recipe.batch_size))]
    amp = torch.autocast(lesson.device.type, torch.bfloat16) if recipe.amp else nullcontext()
    with seeded(lesson.device, lesson.seed, epoch, "network"):
        loaded = images.batches(batches, (lesson.seed, epoch), workers_for(lesson.device))
        for step, batch in enumerate(loaded):
            set_rates(progress.optimizer, recipe, epoch + step / len(batches))
            if progress.average is not None:
                progress.average.decay = average_decay(recipe, epoch * len(batches) + step + 1)
            truth = {name: batch[name].to(lesson.device) for name in ("batch_idx", "cls", "bboxes")}
            with amp:
                loss = lesson.loss(model(normalised(batch["img"].to(lesson.device))), truth)[0].sum()
            take_step(progress, recipe, loss)
            total += loss.detach()
    return float(total) / count


def make_optimizer(model: nn.Module, recipe: TrainRecipe, device: torch.device) -> torch.optim.Optimizer:
    """SGD or AdamW over ultralytics' three groups: only filters decay, biases and norms don't."""
    norms = {id(p) for module in model.modules() if "Norm" in type(module).__name__ for p in module.parameters()}
    named = list(model.named_parameters())
    biases = [p for name, p in named if name.endswith("bias")]
    scales = [p for name, p in named if not name.endswith("bias") and id(p) in norms]
    filters = [p for name, p in named if not name.endswith("bias") and id(p) not in norms]
    groups = [
        {"params": filters, "weight_decay": recipe.weight_decay, "bias": False},
        {"params": scales, "weight_decay": 0.0, "bias": False},
        {"params": biases, "weight_decay": 0.0, "bias": True},
    ]
    return optimizer_over(groups, recipe, device)


def set_rates(optimizer: torch.optim.Optimizer, recipe: TrainRecipe, epoch: float) -> None:
    """Rate and momentum at `epoch`, fractions within one.

    While SGD warms up, biases come down to the recipe's rate from above and the momentum rises to the recipe's.
    """
    rate = learning_rate(recipe, epoch)
    left = max(1 - epoch / recipe.warmup_epochs, 0.0) if recipe.warmup_epochs else 0.0
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "momentum" in group:
            group["lr"] += left * WARM_UP_BIAS_LR if group["bias"] else 0.0
            group["momentum"] = recipe.momentum + left * (WARM_UP_MOMENTUM - recipe.momentum)


def average_decay(recipe: TrainRecipe, steps: int) -> float:
    """Decay of the moving average at the `steps`-th step, from 1: low at first, so that it follows early epochs."""
    return (recipe.ema or 0.0) * (1 - math.exp(-steps / AVERAGE_RAMP))


def augmentation(recipe: TrainRecipe, epoch: int) -> Augment:
    """Ultralytics' settings for what the recipe's `augment` names; no mosaics in the last epochs."""
    chosen = NO_AUGMENT.copy()
    for name in recipe.augment:
        chosen |= AUGMENT[name]
    if epoch >= recipe.epochs - min(CLOSE_MOSAIC, -(-recipe.epochs // 10)):
        chosen["mosaic"] = 0.0
    return chosen | {"mixup": recipe.mixup}


def check_recipe(recipe: TrainRecipe) -> None:
    """UserError for a setting that a detector can't follow."""
    for name in recipe.augment:
        if name not in AUGMENT:
            raise UserError(f"augment: found {name!r}; detection knows {', '.join(AUGMENT)}")
    for name in ("label_smoothing", "cutmix", "randaugment", "random_erasing", "distill"):
        if getattr(recipe, name):
            raise UserError(f"{name}: found {getattr(recipe, name)}; detection has none, expected 0")


def freeze_integral(model: Detector) -> None:
    """The head's integral over distances is a constant, not a weight to train."""
    for parameter in model.model[-1].dfl.parameters():
        parameter.requires_grad_(False)
