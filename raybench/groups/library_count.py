"""MACs as torch-pruning counts them, with norms, activations and pooling, to compare with published speed-ups."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_pruning.utils import op_counter

from raybench.groups.attention import plainly
from raybench.groups.records import Groups
from raybench.groups.shell import Shell

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
Counter = Callable[[Sequence[np.ndarray]], int]  # kept units of every group -> MACs


def library_counts(model: nn.Module, example: Tensor, groups: Groups) -> tuple[int, Counter]:
    """MACs per image of `model` as torch-pruning counts them, and a function that counts them after a cut.

    The library's own hooks run on a `Shell` of the network. The library's own function copies the network and computes
    a real forward pass for each count. Matrix products of attention outside `nn.MultiheadAttention` aren't in it.

    The returned function raises NotSupported, naming the module, where the cut network can't run.
    """
    shell = Shell.of(model, example, groups, _count, _add_hooks)
    return shell.base, shell.cut


def _add_hooks(model: nn.Module, image: Tensor) -> None:
    """Add the library's counting hooks to the copy `model`."""
    modules: dict[str, Any] = dict(model.named_modules())
    for module in modules.values():
        if type(module) in op_counter.MODULES_MAPPING:
            module.register_forward_hook(_by_position(op_counter.MODULES_MAPPING[type(module)]), with_kwargs=True)
            if isinstance(module, NORMS) and image.is_meta:
                module.forward = _same  # type: ignore[method-assign,assignment]  # hooks read shapes, a norm keeps them


def _by_position(hook: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any, Any], None]:
    """`hook` for modules that are called with named inputs, too: the library's hooks read inputs by position."""

    def count(module: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if named:
            inputs = tuple(inspect.signature(type(module).forward).bind(module, *inputs, **named).arguments.values())[
                1:
            ]
        hook(module, inputs[:3] if isinstance(module, nn.MultiheadAttention) else inputs, output)

    return count


def _count(model: nn.Module, image: Tensor) -> int:
    """MACs of a network with the library's hooks."""
    module: Any
    for module in model.modules():
        module.__flops__ = 0  # the library's hooks add to it
    with plainly(model), torch.no_grad():
        model(image)
    return _total(model)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _total(module: Any) -> int:
    """Sum as the library does: a module with a counting hook counts for itself, others are their children's sum."""
    if type(module) in op_counter.MODULES_MAPPING:
        return module.__flops__
    return sum(map(_total, module.children()))
