"""One epoch of a detector as ultralytics' trainer runs it, for a pruned network.

The trainer itself rebuilds a model from its configuration, which would undo pruning. So its parts are combined here:
augmentation, loss, parameter groups, warm-up and moving average. State that isn't saved depends on (seed, epoch) only.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from raybench.datasets.boxes import BoxData
from raybench.datasets.transfer import sent
from raybench.errors import UserError
from raybench.image_size import sides
from raybench.models.ultralytics import normalised
from raybench.pauses import pause
from raybench.sweep.bounds import unused
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.detection_images import Augment, TrainingImages, workers_for
from raybench.tasks.detection_loss import AnyDetector, Criterion, at_epoch, summed
from raybench.tasks.training.loop import batch_order
from raybench.tasks.training.optimize import learning_rate, optimizer_over
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.seeding import seeded
from raybench.tasks.training.steps import take_step
from raybench.tasks.training.team import ALONE, Team

NO_AUGMENT: Augment = dict.fromkeys(
    ("mosaic", "mixup", "copy_paste", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "flipud"), 0.0
)
AUGMENT: dict[str, Augment] = {  # name in a recipe's `augment` -> ultralytics' default
    "mosaic": {"mosaic": 1.0},
    "hsv": {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4},
    "shift": {"translate": 0.1},
    "scale": {"scale": 0.5},
    "flip": {"fliplr": 0.5},
}
CLOSE_MOSAIC = 10  # last epochs without mosaics; a tenth of all epochs if there are fewer than 100
WARM_UP_MOMENTUM, WARM_UP_BIAS_LR = 0.8, 0.1  # at the start of SGD's warm-up, ultralytics' defaults
AVERAGE_RAMP = 2000  # steps, ultralytics' tau


@dataclass(frozen=True)
class EpochInputs:
    """Inputs of an epoch besides the network."""

    data: BoxData
    recipe: TrainRecipe
    seed: int
    device: torch.device
    loss: Criterion
    team: Team = ALONE


def run_epoch(progress: TrainingState, inputs: EpochInputs, epoch: int) -> float:
    """One pass over the augmented training images; returns the mean loss per image.

    Gradients are those of the loss as ultralytics' trainer takes it, summed over the batch but for RT-DETR's.
    """
    model, recipe = cast(AnyDetector, progress.model.train()), inputs.recipe
    size, augment = max(sides(inputs.data.facts.image_size)), augmentation(recipe, epoch)
    images = TrainingImages(inputs.data.train, inputs.data.names, size, augment, stretched=model.stretched)
    at_epoch(inputs.loss, epoch, recipe.epochs)
    team, count, total = inputs.team, len(images), torch.zeros((), device=inputs.device)
    order = batch_order(count, inputs.seed, epoch, recipe.batch_size, drop_last=False)
    batches = [team.share(part).numpy() for part in order]
    amp = torch.autocast(inputs.device.type, torch.bfloat16) if recipe.amp else nullcontext()
    with seeded(inputs.device, inputs.seed, epoch, "network", *team.marks):
        loaded = images.batches(batches, (inputs.seed, epoch), workers_for(inputs.device))
        for step, batch in enumerate(loaded):
            set_rates_and_momentum(progress.optimizer, recipe, epoch + step / len(batches))
            if progress.average is not None:
                progress.average.decay = average_decay(recipe, epoch * len(batches) + step + 1)
            truth = {name: sent(batch[name], inputs.device) for name in ("batch_idx", "cls", "bboxes")}
            with amp:
                outputs = model.training_outputs(normalised(sent(batch["img"], inputs.device)), truth)
                loss = inputs.loss(outputs, truth)[0].sum()
            whole = len(order[step]) / len(batches[step])  # the loss is that of as many images as this process has
            take_step(progress, recipe, loss, team, whole)
            total += summed(inputs.loss, loss.detach(), len(batch["img"])) * whole
            pause()
    return team.sums(float(total))[0] / count


def make_optimizer(model: nn.Module, recipe: TrainRecipe, device: torch.device) -> torch.optim.Optimizer:
    """SGD or AdamW over ultralytics' three parameter groups; only filters have weight decay, not biases and norms."""
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


def set_rates_and_momentum(optimizer: torch.optim.Optimizer, recipe: TrainRecipe, epoch: float) -> None:
    """Set learning rates and momentum at `epoch`, a float that includes the part of the epoch that is done.

    While SGD warms up, the biases' rate falls to the recipe's and the momentum rises to the recipe's.
    """
    rate = learning_rate(recipe, epoch)
    left = max(1 - epoch / recipe.warmup_epochs, 0.0) if recipe.warmup_epochs else 0.0
    for group in optimizer.param_groups:
        group["lr"] = rate
        if "momentum" in group and not group.get("apart"):
            group["lr"] += left * WARM_UP_BIAS_LR if group["bias"] else 0.0
            group["momentum"] = recipe.momentum + left * (WARM_UP_MOMENTUM - recipe.momentum)


def average_decay(recipe: TrainRecipe, steps: int) -> float:
    """Decay of the moving average at step `steps` (from 1): low at first, so that it follows the early weights."""
    return (recipe.ema or 0.0) * (1 - math.exp(-steps / AVERAGE_RAMP))


def augmentation(recipe: TrainRecipe, epoch: int) -> Augment:
    """Ultralytics' settings for the names in the recipe's `augment`; no mosaics in the last epochs."""
    chosen = NO_AUGMENT.copy()
    for name in recipe.augment:
        chosen |= AUGMENT[name]
    if epoch >= recipe.epochs - min(CLOSE_MOSAIC, -(-recipe.epochs // 10)):
        chosen["mosaic"] = 0.0
    return chosen | {"mixup": recipe.mixup}


def check_recipe(recipe: TrainRecipe) -> None:
    """UserError for a setting that detection doesn't support."""
    for name in recipe.augment:
        if name not in AUGMENT:
            raise UserError(f"augment: found {name!r}; detection has {', '.join(AUGMENT)}")
    for key, message in unused(recipe, "detection"):
        raise UserError(f"{key}: {message}")


def freeze_integral(model: AnyDetector) -> None:
    """Exclude the head's integral over distances, a constant, from training; not every head has one."""
    integral = getattr(model.head, "dfl", None)
    for parameter in integral.parameters() if integral is not None else ():
        parameter.requires_grad_(False)
