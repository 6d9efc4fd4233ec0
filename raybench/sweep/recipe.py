"""Frozen records of a recipe: the hyperparameters of the training stages, with everything filled in."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

from pydantic import Field

from raybench.errors import counted
from raybench.sweep.bounds import MOST_BATCH, MOST_EPOCHS, MOST_IMAGES, MOST_NAME, Augmentation, Real, Whole
from raybench.sweep.early_stop import EarlyStop
from raybench.sweep.frozen import Frozen
from raybench.sweep.speed import Speed


class TrainRecipe(Frozen):
    """Hyperparameters of one training stage. `lr` and `weight_decay` are per step, durations in epochs."""

    epochs: Whole = Field(ge=0, le=MOST_EPOCHS)
    batch_size: Whole = Field(default=128, ge=1, le=MOST_BATCH)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Real = Field(gt=0, le=1000)
    momentum: Real = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: Real = Field(default=5e-4, ge=0, le=100)
    schedule: Literal["constant", "cosine", "multistep", "step"] = "cosine"
    milestones: tuple[Annotated[Whole, Field(ge=0, le=MOST_EPOCHS)], ...] = ()
    step_size: Whole = Field(default=30, ge=1, le=MOST_EPOCHS)
    gamma: Real = Field(default=0.1, gt=0, le=1000)
    warmup_epochs: Real = Field(default=0, ge=0, le=MOST_EPOCHS)
    min_lr: Real = Field(default=0.0, ge=0, le=1000)
    clip_grad: Real | None = Field(default=None, ge=0)  # 0 disables it, as None does
    label_smoothing: Real = Field(default=0.0, ge=0, lt=1)
    mixup: Real = Field(default=0.0, ge=0, le=100)
    cutmix: Real = Field(default=0.0, ge=0, le=100)
    randaugment: Whole = Field(default=0, ge=0, le=10)  # magnitude; 0 disables it
    random_erasing: Real = Field(default=0.0, ge=0, le=1)
    augment: tuple[Augmentation, ...] = ()
    ema: Real | None = Field(default=None, ge=0, lt=1)
    distill: Real = Field(default=0.0, ge=0, le=1)  # weight of distillation from the dense base's soft targets
    amp: bool = False
    start_scale: Real = Field(default=1.0, gt=0, le=1)  # share of the images' sides in the first epoch; 1: whole images

    def silent(self) -> Collection[str]:
        """See `Frozen.silent`."""
        return () if self.start_scale < 1 else ("start_scale",)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """(field, message) of every setting that can't work beside the others."""
        if self.warmup_epochs > self.epochs > 0:
            yield (
                "warmup_epochs",
                f"found {self.warmup_epochs:g}, expected at most the {counted(self.epochs, 'epoch')} of this stage",
            )
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            yield "nesterov", "found true with momentum 0, expected a momentum above 0"


class Recipe(Frozen):
    """A named set of training stages, plus the number of calibration images for scoring."""

    name: str = Field(min_length=1, max_length=MOST_NAME)
    base: TrainRecipe
    sparsify: TrainRecipe = TrainRecipe(epochs=0, lr=1.0)  # left out where no method has a regularizer
    finetune: TrainRecipe
    calibration_images: Whole = Field(default=256, ge=1, le=MOST_IMAGES)
    calibration_batch: Whole = Field(default=64, ge=1, le=MOST_BATCH)
    recalibration_images: Whole = Field(default=0, ge=0, le=MOST_IMAGES)  # of batch norms after the cut; 0: none
    speed: Speed = Speed()
    early_stop: EarlyStop | None = None  # of fine-tuning; None: every cell trains to its end

    def contradictions(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """(message, (stage or block, key)) of every setting that can't work beside the others."""
        stages = ("base", "sparsify", "finetune")
        mixed = [stage for stage in stages if getattr(self, stage).amp and getattr(self, stage).epochs]
        for stage in stages:
            for key, message in getattr(self, stage).contradictions():
                yield message, (stage, key)
        if self.speed.precision in ("fp32", "tf32") and mixed:
            why = f"{', '.join(mixed)} {'has' if len(mixed) == 1 else 'have'} amp: true, which is bf16"
            yield f"found {self.speed.precision}, but {why}; expected amp: false there", ("speed", "precision")
        if self.early_stop and not self.early_stop.rungs(self.finetune.epochs):
            found, epochs = self.early_stop.grace_period, self.finetune.epochs
            most = counted(epochs, "epoch")
            wanted = f"found {found}, expected less than the {most} of finetune: no cell would be stopped"
            yield wanted, ("early_stop", "grace_period")

    def silent(self) -> Collection[str]:
        """See `Frozen.silent`."""
        said = {
            "speed": self.speed != Speed(),
            "recalibration_images": self.recalibration_images > 0,
            "early_stop": self.early_stop is not None,
        }
        return [name for name, speaks in said.items() if not speaks]
