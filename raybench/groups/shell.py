"""A copy of a network, most often of its shapes alone, that is cut and restored in place to count what cuts cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups import surgery
from raybench.groups.records import Groups

Count = Callable[[nn.Module, Tensor], int]  # network, image -> MACs


def _unchanged(model: nn.Module, image: Tensor) -> None:
    """Add nothing to the copy."""


class Shell:
    """A copy of a network that is only used for counting. `base`: the count before any cut."""

    def __init__(self, model: nn.Module, image: Tensor, groups: Groups, count: Count) -> None:
        self._model, self._image, self._groups, self._count = model, image, groups, count
        self._entered = ""  # the module whose forward began last
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda module, inputs, name=name: setattr(self, "_entered", name))
        self.base = count(model, image)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example: Tensor,
        groups: Groups,
        count: Count,
        prepare: Callable[[nn.Module, Tensor], None] = _unchanged,
    ) -> Shell:
        """A copy of `model` that is counted on the first image of `example`. `model` isn't changed.

        The copy is on device "meta" (shapes without values); it has values when the forward pass reads values or
        creates tensors on another device.

        Args:
            model: the network.
            example: one batch as the model takes it.
            groups: its groups.
            count: counts the copy, uncut or cut.
            prepare: called once with the copy and the image, before the first count.
        """
        slim, image = copy_of_shapes(model), example[:1].to("meta")
        prepare(slim, image)
        try:
            return cls(slim, image, groups, count)
        except Exception:  # a forward pass that needs values may raise anything
            full = copy.deepcopy(model)
            prepare(full, example[:1])
            return cls(full, example[:1], groups, count)

    def cut(self, kept: Sequence[np.ndarray]) -> int:
        """The count with the `kept` units of each group.

        Raises:
            NotSupported: the cut network can't run; names the module.
        """
        with _restored(self._model):
            named = {g.name: units for g, units in zip(self._groups, kept, strict=True)}
            surgery.apply(self._model, self._groups, named)
            try:
                return self._count(self._model, self._image)
            except (RuntimeError, ValueError) as error:
                where = f"in or after {self._entered}" if self._entered else "in its own forward"
                raise NotSupported(
                    f"{type(self._model).__name__} can't run with fewer channels, {where}: {error}; "
                    "a forward pass that names widths has to read them from its layers or inputs"
                ) from error


def copy_of_shapes(model: nn.Module) -> nn.Module:
    """A copy of `model` on device "meta": every parameter and buffer has its shape and no values."""
    return copy.deepcopy(model, {id(t): shape_only(t) for t in (*model.parameters(), *model.buffers())})


def sharing_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are those of `model`: to cut, not to write into."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def shape_only(tensor: Tensor) -> Tensor:
    """A tensor or parameter of the same shape without values."""
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore what surgery replaces: parameters, buffers and attributes of every module."""
    before: dict[Any, dict[str, Any]] = {
        m: {**vars(m), "_parameters": dict(m._parameters), "_buffers": dict(m._buffers)} for m in model.modules()
    }
    try:
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)
