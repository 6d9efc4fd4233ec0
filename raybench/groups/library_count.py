"""MACs as torch-pruning counts them, with norms, activations and pooling, to compare with published speed-ups."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_pruning.utils import op_counter

from raybench.errors import NotSupported
from raybench.groups import surgery
from raybench.groups.attention import plainly
from raybench.groups.records import Groups

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
Counter = Callable[[Sequence[np.ndarray]], int]  # kept units of every group -> MACs


def library_counts(model: nn.Module, example: Tensor, groups: Groups) -> tuple[int, Counter]:
    """MACs per image of `model` as torch-pruning counts them, and a function that counts them after a cut.

    The library's own hooks run on a copy of the network on device "meta" (shapes without values), which is cut and
    restored in place; on a copy with values when the forward pass reads values or creates tensors on another device.
    The library's own function copies the network and computes a real forward pass for each count.

    The returned function raises NotSupported, naming the module, where the cut network can't run.
    """
    shapes = {id(t): _shape_only(t) for t in (*model.parameters(), *model.buffers())}
    shell = _Shell(copy.deepcopy(model, shapes), example[:1].to("meta"), groups)
    try:
        base = shell.count()
    except Exception:  # a forward pass that needs values may raise anything
        shell = _Shell(copy.deepcopy(model), example[:1], groups)
        base = shell.count()
    return base, shell.cut


class _Shell:
    """A copy of a network that is only used for counting."""

    def __init__(self, model: nn.Module, image: Tensor, groups: Groups) -> None:
        self._model, self._image, self._groups = model, image, groups
        self._entered = ""  # the module whose forward began last
        modules: dict[str, Any] = dict(model.named_modules())
        for name, module in modules.items():
            module.register_forward_pre_hook(lambda module, inputs, name=name: setattr(self, "_entered", name))
            if type(module) in op_counter.MODULES_MAPPING:
                module.register_forward_hook(op_counter.MODULES_MAPPING[type(module)])
                if isinstance(module, NORMS) and image.is_meta:
                    module.forward = _same  # type: ignore[method-assign,assignment]  # hooks read shapes, a norm keeps them

    def count(self) -> int:
        """MACs of the network as it is."""
        module: Any
        for module in self._model.modules():
            module.__flops__ = 0  # the library's hooks add to it
        with plainly(self._model), torch.no_grad():
            self._model(self._image)
        return _total(self._model)

    def cut(self, kept: Sequence[np.ndarray]) -> int:
        """MACs with the `kept` units of each group."""
        with _restored(self._model):
            named = {g.name: units for g, units in zip(self._groups, kept, strict=True)}
            surgery.apply(self._model, self._groups, named)
            try:
                return self.count()
            except (RuntimeError, ValueError) as error:
                where = f"in or after {self._entered}" if self._entered else "in its own forward"
                raise NotSupported(
                    f"{type(self._model).__name__} can't run with fewer channels, {where}: {error}; "
                    "a forward pass that names widths has to read them from its layers or inputs"
                ) from error


def _shape_only(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _total(module: Any) -> int:
    """Sum as the library does: a module with a counting hook counts for itself, others are their children's sum."""
    if type(module) in op_counter.MODULES_MAPPING:
        return module.__flops__
    return sum(map(_total, module.children()))


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore what surgery replaces: parameters, buffers and attributes of every module."""
    before = {m: {**vars(m), "_parameters": dict(m._parameters), "_buffers": dict(m._buffers)} for m in model.modules()}
    try:
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)
