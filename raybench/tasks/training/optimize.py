"""Optimizer and learning rate of a recipe. The rate is a function of the epoch, so no scheduler state is saved."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from raybench.methods.protocols import Regularizer
from raybench.methods.trained_selection import TrainedSelection
from raybench.sweep.recipe import TrainRecipe


def make_optimizer(model: nn.Module, recipe: TrainRecipe, device: torch.device) -> torch.optim.Optimizer:
    """SGD decays all parameters (as CIFAR and ImageNet scripts do), AdamW only matrices and filters (as timm)."""
    if recipe.optimizer == "sgd":
        groups = [{"params": list(model.parameters()), "weight_decay": recipe.weight_decay}]
    else:
        groups = _by_decay(model, recipe.weight_decay)
    return optimizer_over(_with_own(groups, model), recipe, device)


def optimizer_over(groups: list[dict[str, Any]], recipe: TrainRecipe, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's SGD or AdamW over parameter `groups`, each with its own weight decay."""
    fused = device.type in ("cpu", "cuda")
    if recipe.optimizer == "adamw":
        graphs = device.type == "cuda"  # a step that is captured as a CUDA graph
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused, capturable=graphs)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)


def set_apart(optimizer: torch.optim.Optimizer, hook: Regularizer | None) -> torch.optim.Optimizer:
    """Give the parameters that a trained selection names a group with the settings that it says; any other hook none.

    Settings that the optimizer doesn't have are left out: AdamW has no momentum.
    """
    own = hook.own_parameters() if isinstance(hook, TrainedSelection) else ()
    if not own or not isinstance(hook, TrainedSelection):
        return optimizer
    moved = set(map(id, own))
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in moved]
    settings = {name: value for name, value in hook.own_settings().items() if name in optimizer.defaults}
    optimizer.add_param_group({"params": list(own), "apart": True, **settings})
    return optimizer


@runtime_checkable
class TwoRates(Protocol):
    """A network with parameters of a method in it, which may have a learning rate of their own."""

    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        """The method's parameters."""

    def learning_rates(self, now: float, highest: float, done: float) -> tuple[float, float]:
        """Rates of the network's and of the method's parameters where the recipe says `now`."""


def _with_own(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """`groups`, where `model` has a method's own parameters divided: those first, marked `own`, then the network's."""
    own = set(map(id, model.own_parameters())) if isinstance(model, TwoRates) else set()
    if not own:
        return groups
    parts = [
        group | {"params": [one for one in group["params"] if (id(one) in own) is mine], "own": mine}
        for mine in (True, False)
        for group in groups
    ]
    return [part for part in parts if part["params"]]


def set_rates(optimizer: torch.optim.Optimizer, model: nn.Module, recipe: TrainRecipe, epoch: float) -> None:
    """Give every parameter group its learning rate at `epoch`."""
    now = own = learning_rate(recipe, epoch)
    if isinstance(model, TwoRates):
        now, own = model.learning_rates(now, recipe.lr, epoch / recipe.epochs)
    for group in optimizer.param_groups:
        group["lr"] = own if group.get("own") else now


def _by_decay(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: with weight decay, and without (biases, norms, tokens, position embeddings)."""
    no_weight_decay = getattr(model, "no_weight_decay", None)  # timm's networks have it
    exempt = set(no_weight_decay()) if no_weight_decay else set()
    named = list(model.named_parameters())
    not_decayed = [p for name, p in named if p.ndim <= 1 or name in exempt]
    decayed = [p for name, p in named if p.ndim > 1 and name not in exempt]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]


def learning_rate(recipe: TrainRecipe, epoch: float) -> float:
    """Learning rate at `epoch` in [0, epochs), a float that includes the part of the epoch that is done.

    Linear warm-up from 0; then constant, a step every `step_size` epochs or at `milestones` (counted from the
    start), or half a cosine down to `min_lr` over the remaining epochs.
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
