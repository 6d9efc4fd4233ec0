"""Makes ordinary weights of those that a network computes on every call (weight_norm, spectral_norm)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from raybench.errors import counted
from raybench.groups.attention import eval_mode

REMOVED: dict[type, Callable[[Any, str], Any]] = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm}


def baked(model: nn.Module) -> nn.Module:
    """Replace in place every weight that is computed from others by what it is now; warns of how many. Returns `model`.

    A cut removes channels from weights. From a weight that is computed anew on every call nothing can be removed.
    Call it after a checkpoint has been loaded, which names the weights that the computation starts from.
    """
    found = 0
    if not computes_weights(model):
        return model
    with eval_mode(model):  # reading a spectral norm in training mode would change it
        for module in list(model.modules()):
            found += _bake(module)
    made = "are now ordinary weights with the values that they had" if found != 1 else "is now ordinary, with its value"
    warnings.warn(
        f"{type(model).__name__}: {counted(found, 'weight that is', 'weights that are')} computed on every call "
        f"(weight_norm, spectral_norm, parametrizations) {made}",
        UserWarning, stacklevel=2,
    )  # fmt: skip
    return model


def baked_copy(model: nn.Module) -> nn.Module:
    """A baked copy of `model`, which stays as it is."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook) in REMOVED:  # torch copies no tensor with a history; the next call computes it again
                setattr(module, hook.name, getattr(module, hook.name).detach())  # type: ignore[attr-defined]
    return baked(copy.deepcopy(model))


def computes_weights(model: nn.Module) -> bool:
    """Whether a weight of `model` is computed on every call."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    return any(map(parametrize.is_parametrized, model.modules())) or any(type(hook) in REMOVED for hook in hooks)


def _bake(module: nn.Module) -> int:
    found = 0
    if parametrize.is_parametrized(module):
        _own_class(module)
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            found += 1
    for hook in list(module._forward_pre_hooks.values()):
        remove = REMOVED.get(type(hook))
        if remove is not None:
            remove(module, hook.name)  # type: ignore[attr-defined]
            found += 1
    return found


def _own_class(module: nn.Module) -> None:
    """Give `module` a class of its own: copies share the class from which torch removes the computed weight."""
    shared = type(module)
    inside = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, inside)
