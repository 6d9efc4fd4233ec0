"""MACs as torch-pruning counts them: norms, activations and pooling too, so that the paper's speed-ups compare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch_pruning.utils import op_counter

from raybench.errors import NotSupported
from raybench.pipeline import surgery
from raybench.pipeline.attention import plainly
from raybench.pipeline.records import Groups

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
Counter = Callable[[Sequence[np.ndarray]], int]  # kept units of every group -> MACs


def library_counts(model: nn.Module, example: Tensor, groups: Groups) -> tuple[int, Counter]:
    """MACs per image of `model` as torch-pruning counts them, and a function that counts it cut to the given units.

    It runs the library's own hooks over a network that has shapes but no numbers (device "meta"), cut and made
    whole again in place; over one with numbers when the forward pass asks for values or makes tensors elsewhere.
    The library's function copies the network and computes the forward pass for each count.

    The function raises NotSupported, naming the module, where the cut network can't run.
    """
    shapes = {id(t): _shape_only(t) for t in (*model.parameters(), *model.buffers())}
    shell = _Shell(copy.deepcopy(model, shapes), example[:1].to("meta"), groups)
    try:
        base = shell.count()
    except Exception:  # whatever a forward pass says that can't do without numbers
        shell = _Shell(copy.deepcopy(model), example[:1], groups)
        base = shell.count()
    return base, shell.cut


class _Shell:
    """A network that is only there to be counted."""

    def __init__(self, model: nn.Module, image: Tensor, groups: Groups) -> None:
        self._model, self._image, self._groups = model, image, groups
        self._entered = ""  # the module that ran last
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda module, inputs, name=name: setattr(self, "_entered", name))
            if type(module) in op_counter.MODULES_MAPPING:
                module.register_forward_hook(op_counter.MODULES_MAPPING[type(module)])
                if isinstance(module, NORMS) and image.is_meta:
                    module.forward = _same  # the hooks look at shapes, and a norm keeps them

    def count(self) -> int:
        """MACs of the network as it is."""
        for module in self._model.modules():
            module.__flops__ = 0
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


def _total(module: nn.Module) -> int:
    """The library's sum: what a module it knows counted for itself, else the sum over its children."""
    if type(module) in op_counter.MODULES_MAPPING:
        return module.__flops__
    return sum(map(_total, module.children()))


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Undo what a surgery replaces: parameters, buffers and attributes of every module."""
    before = {m: {**vars(m), "_parameters": dict(m._parameters), "_buffers": dict(m._buffers)} for m in model.modules()}
    try:
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)
