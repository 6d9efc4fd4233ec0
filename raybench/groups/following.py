"""Runs a network once and follows the labels of its channels through every operation that torch computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from raybench.errors import NotSupported
from raybench.groups.hooks import hooked
from raybench.groups.labels import ANY, FIXED, Axis, Labels

Axes = list[Axis]
Rule = Callable[["Followed", "Call"], Sequence[Axes] | None]  # axes of each output; None: unknown
RULES: dict[str, Rule] = {}  # operation, as "aten::view" -> its rule


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorate the rule of the operations `names`, of torch's own where no library is named."""

    def keep(function: Rule) -> Rule:
        RULES.update({name if "::" in name else f"aten::{name}": function for name in names})
        return function

    return keep


@dataclass(frozen=True)
class Choices:
    """What trial cuts have taught about classes of modules, by class name."""

    reshapes: Mapping[str, int] = field(default_factory=dict)  # which of the axes that a reshape makes may shrink
    whole: frozenset[str] = frozenset()  # all channels that they touch stay
    layers: frozenset[tuple[str, str]] = frozenset()  # (layer, side) that stay


@dataclass(frozen=True)
class Call:
    """One operation as it was called."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Sequence[Tensor]
    signature: Sequence[str]  # names of its arguments

    def get(self, name: str, default: Any = None) -> Any:
        """The argument `name`, however it was given."""
        if name in self.kwargs:
            return self.kwargs[name]
        place = self.signature.index(name) if name in self.signature else len(self.args)
        return self.args[place] if place < len(self.args) else default


class Followed(TorchDispatchMode):
    """Labels of the tensors of one forward pass. Inside `with`, every operation is followed."""

    def __init__(self, model: nn.Module, choices: Choices, deadline: float) -> None:
        super().__init__()
        self.labels, self.choices, self.deadline = Labels(), choices, deadline
        self.model_name = type(model).__name__
        self._axes: Any = WeakTensorKeyDictionary()
        self.stack: list[tuple[str, str]] = [("", self.model_name)]  # (name, class) of the modules that run
        self.reshaped: set[str] = set()  # classes of modules in which an axis of channels was divided

    @property
    def here(self) -> str:
        """The class of the module that runs."""
        return self.stack[-1][1]

    def where(self, why: str) -> str:
        """`why`, and in which module."""
        return f"{why} in {self.stack[-1][0] or 'the forward'} ({self.here})"

    def axes(self, tensor: Tensor) -> Axes:
        """Axes of a tensor; those of one that comes from nowhere are ANY where its values are equal."""
        if tensor in self._axes:
            return list(self._axes[tensor])
        return [self._unknown(tensor, i) for i in range(tensor.dim())]

    def known(self, tensor: Tensor) -> bool:
        """Whether the tensor was made from the image, a parameter or a buffer."""
        return tensor in self._axes

    def _unknown(self, tensor: Tensor, axis: int) -> Axis:
        with torch.utils._python_dispatch._disable_current_modes():
            if tensor.shape[axis] < 2 or not tensor.numel():
                return ANY
            first = tensor.narrow(axis, 0, 1)
            return ANY if bool((tensor == first).all()) else FIXED

    def note(self, tensor: Tensor, axes: Sequence[Axis]) -> None:
        """Give a tensor its axes."""
        self._axes[tensor] = list(axes)

    def pin(self, axis: Axis, why: str) -> None:
        """Keep the channels of `axis`, with the module that runs as the place."""
        self.labels.pin(axis, self.where(why))

    def join(self, left: Axis, right: Axis, why: str) -> Axis:
        """The axis that two equally long axes make when they meet position by position."""
        if left is ANY or right is ANY:
            return right if left is ANY else left
        if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
            self.labels.unite(left, right)
            return left
        self.pin(left, why)
        self.pin(right, why)
        return FIXED

    def couple(self, axis: np.ndarray, rows: int) -> np.ndarray:
        """The same place of each of `rows` equal parts is one channel; returns one part's labels."""
        parts = axis.reshape(rows, -1)
        for part in parts[1:]:
            self.labels.unite(parts[0], part)
        return parts[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.thread_time() > self.deadline:
            raise NotSupported(f"can't group {self.model_name}: following its channels took too long, {self.where('')}")
        before = self._inputs(args, kwargs or {}) if func._schema.is_mutable else ()
        started = time.thread_time()
        result = func(*args, **(kwargs or {}))
        self.deadline += time.thread_time() - started  # the network's own time doesn't count
        outs = [o for o in flat(result) if isinstance(o, Tensor)]
        name = func.name().partition(".")[0]
        call = Call(name, args, kwargs or {}, outs, [a.name for a in func._schema.arguments])
        inputs = self._inputs(args, kwargs or {})
        if any(self.known(t) for t in (*inputs, *before)):
            self._follow(func, call, inputs)
        return result

    def _inputs(self, args: Any, kwargs: Any) -> list[Tensor]:
        return [t for t in flat((args, tuple(kwargs.values()))) if isinstance(t, Tensor)]

    def _follow(self, func: Any, call: Call, inputs: Sequence[Tensor]) -> None:
        if self.here in self.choices.whole:
            for tensor in inputs:
                for axis in self._axes.get(tensor, ()):
                    self.pin(axis, "a width that it can't do with fewer of")
        known = RULES.get(call.name)
        if known is None and torch.Tag.pointwise in func.tags:
            known = RULES["aten::pointwise"]
        found = known(self, call) if known is not None else None
        if found is None or [len(axes) for axes in found] != [out.dim() for out in call.out]:
            for tensor in inputs:
                for axis in self._axes.get(tensor, ()):
                    self.pin(axis, f"{call.name.partition('::')[2]} isn't followed")
            found = [[FIXED] * out.dim() for out in call.out]
        for out, axes in zip(call.out, found, strict=True):
            self.note(out, [self._fitting(axis, n) for axis, n in zip(axes, out.shape, strict=True)])

    def _fitting(self, axis: Axis, size: int) -> Axis:
        if isinstance(axis, np.ndarray) and len(axis) != size:
            self.pin(axis, "channels are left out")
            return FIXED
        return axis


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from flat(one)
    else:
        yield value


@contextmanager
def modules_known(model: nn.Module, stack: list[tuple[str, str]]) -> Iterator[None]:
    """Inside, `stack` holds the (name, class) of the modules of `model` that run; after an error, of those that ran."""
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, inputs: Any) -> None:
        stack.append((names[module], type(module).__name__))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        stack.pop()

    with hooked(h for m in names for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))):
        yield
