"""The whole network with some channels truly gone: its statistics over channels see those that are left alone.

Silencing channels isn't the same as removing them where a mean, a softmax or a norm runs over channels. Here labels
mark the positions of every tensor that are gone, and such an operation is computed once more without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.groups.following import Axes, Call, Choices, Followed, flat
from raybench.groups.labelled import places_of
from raybench.groups.records import Group
from raybench.groups.surgery import axis_of

STATISTICS = frozenset((
    "mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "max", "min", "linalg_vector_norm", "norm",
    "prod", "logsumexp", "any", "all", "median", "count_nonzero", "aminmax", "_softmax", "_log_softmax", "softmax",
    "log_softmax", "_safe_softmax", "native_layer_norm", "layer_norm", "rms_norm", "_fused_rms_norm",
    "native_group_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional",
    "batch_norm", "bmm", "mm", "matmul",
))  # fmt: skip
SHAPED = ("layer_norm", "rms_norm")  # they name the shape of what they norm


class Live(Followed):
    """Follows labels, and computes statistics over channels without the positions that are gone.

    `gone`: for each label, as a first pass of the same network numbered them, whether it was removed.
    """

    def __init__(self, model: nn.Module, choices: Choices, deadline: float, gone: np.ndarray) -> None:
        super().__init__(model, choices, deadline)
        self.gone = gone

    def _follow(self, func: Any, call: Call, inputs: Sequence[Tensor]) -> None:
        before = {id(t): self.axes(t) for t in inputs if self.known(t)}
        super()._follow(func, call, inputs)
        if call.name.partition("::")[2] not in STATISTICS or not any(map(self._lacks, before.values())):
            return
        args = [self._without(a, before) for a in call.args]
        kwargs = {key: self._without(a, before) for key, a in call.kwargs.items()}
        self._name_shapes(call, args)
        result = func(*args, **kwargs)
        for out, less in zip(call.out, (o for o in flat(result) if isinstance(o, Tensor)), strict=True):
            self._put(out, less)

    def _lacks(self, axes: Axes) -> bool:
        return any(isinstance(axis, np.ndarray) and self.gone[axis].any() for axis in axes)

    def _left(self, axes: Axes) -> Iterator[tuple[int, Tensor]]:
        """(axis, positions that are left) of the axes that have lost some and not all."""
        for k, axis in enumerate(axes):
            if isinstance(axis, np.ndarray) and self.gone[axis].any() and not self.gone[axis].all():
                yield k, torch.from_numpy(np.nonzero(~self.gone[axis])[0])

    def _without(self, value: Any, before: Mapping[int, Axes]) -> Any:
        if isinstance(value, Tensor) and id(value) in before:
            for k, places in self._left(before[id(value)]):
                value = value.index_select(k, places.to(value.device))
        return value

    def _name_shapes(self, call: Call, args: list[Any]) -> None:
        """Adapt the sizes that norms are called with."""
        name = call.name.partition("::")[2]
        if name.endswith(SHAPED):
            args[1] = list(args[0].shape[-len(args[1]) :])
        elif name == "native_group_norm":
            args[4] = args[0].shape[1]

    def _put(self, out: Tensor, less: Tensor) -> None:
        """Write what was computed without the removed positions into `out`, and zeros at these."""
        left = dict(self._left(self.axes(out)))
        if list(less.shape) != [len(left[k]) if k in left else n for k, n in enumerate(out.shape)]:
            return
        if not left:
            out.copy_(less)
            return
        out.zero_()
        index = [(left[k] if k in left else torch.arange(n)).to(out.device) for k, n in enumerate(out.shape)]
        out[torch.meshgrid(*index, indexing="ij")] = less


def gone_of(
    model: nn.Module, followed: Followed, groups: Iterable[Group], kept: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Bool (labels,): which labels of a followed pass are removed where `groups` keep the `kept` units."""
    sides = {(p.layer, p.side if p.axis is None else "", p.axis): p.labels for p in places_of(model, followed)}
    classes, _ = followed.labels.classes()
    lost = np.zeros(followed.labels.count, dtype=bool)
    for group in groups:
        if group.name not in kept:
            continue
        stays = np.zeros(group.size, dtype=bool)
        stays[kept[group.name]] = True
        for member in group.members:
            axis = axis_of(model.get_parameter(member.layer), member) if member.kind == "parameter" else None
            here = sides.get((member.layer, member.side if axis is None else "", axis))
            if here is not None and len(here) == member.width:
                lost[classes[here[member.positions[~stays[member.units]]]]] = True
    lost[0] = False
    return lost[classes]
