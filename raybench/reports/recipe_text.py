"""A training recipe in one line: epochs, optimiser, rate and augmentation of its stages."""

from __future__ import annotations

from raybench.errors import counted
from raybench.sweep.recipe import Recipe, TrainRecipe

AUGMENTATION = ("randaugment", "random_erasing", "mixup", "cutmix")


def recipe_text(recipe: Recipe, *, base: bool = True) -> str:
    """``quick: base 16 epochs, adamw, lr 0.004, mixup 0.2; fine-tuning 7 epochs, ...``; `base`: whether it trains."""
    first = f"base {stage_text(recipe.base)}; " if base else ""
    return f"{recipe.name}: {first}fine-tuning {stage_text(recipe.finetune)}"


def stage_text(stage: TrainRecipe) -> str:
    """``7 epochs, adamw, lr 0.006, no augmentation``."""
    if not stage.epochs:
        return "0 epochs"
    used: list[str] = list(stage.augment)
    used += [f"{name.replace('_', ' ')} {value:g}" for name in AUGMENTATION if (value := getattr(stage, name))]
    more = ", ".join(used) or "no augmentation"
    return f"{counted(stage.epochs, 'epoch')}, {stage.optimizer}, lr {stage.lr:g}, {more}"
