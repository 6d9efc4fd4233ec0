"""Optimizer and learning rate of a recipe. The rate is a function of the epoch, so there is no schedule to save."""

from __future__ import annotations

import math
from bisect import bisect_right

import torch
from torch import nn

from raybench.spec.trial import TrainRecipe


def make_optimizer(model: nn.Module, recipe: TrainRecipe, device: torch.device) -> torch.optim.Optimizer:
    """SGD decays every parameter, as the CIFAR and ImageNet scripts do; AdamW only matrices and filters (timm)."""
    fused = device.type in ("cpu", "cuda")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=fused,
        )
    return torch.optim.AdamW(_by_decay(model, recipe.weight_decay), lr=recipe.lr, fused=fused)


def _by_decay(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two parameter groups: with weight decay, and without (biases, norms, tokens, position embeddings)."""
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    named = list(model.named_parameters())
    free = [p for name, p in named if p.ndim <= 1 or name in exempt]
    decayed = [p for name, p in named if p.ndim > 1 and name not in exempt]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def learning_rate(recipe: TrainRecipe, epoch: float) -> float:
    """Rate at `epoch` in [0, epochs), fractions within an epoch.

    Linear warm-up from 0; then constant, a step every `step_size` epochs or at `milestones` (counted from the
    start), or half a cosine down to `min_lr` over what the warm-up left.
    """
    if epoch < recipe.warmup_epochs:
        return recipe.lr * epoch / recipe.warmup_epochs
    if recipe.schedule == "cosine":
        length = max(recipe.epochs - recipe.warmup_epochs, 1e-9)
        share = min((epoch - recipe.warmup_epochs) / length, 1.0)
        return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * share)) / 2
    drops = {
        "constant": 0,
        "multistep": bisect_right(sorted(recipe.milestones), epoch),
        "step": int(epoch // recipe.step_size),
    }
    return recipe.lr * recipe.gamma ** drops[recipe.schedule]
