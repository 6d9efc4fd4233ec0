"""Checks by forward passes with marked channels that channels arrive where the traced groups say.

torch-pruning takes every unknown operation for an element-wise one, so a channel shuffle, a flip or a custom
attention would be cut at the wrong positions and still run. Here every convolution and linear layer outputs one
constant level per channel instead of its result. Raising the levels of some units must change the inputs of later
layers at the positions that the groups name, and at no others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from raybench.errors import NotSupported, RaybenchWarning
from raybench.groups.layer_types import CONVOLUTIONS, NORMS
from raybench.groups.records import Groups, Member, Side
from raybench.groups.widths import sides_of

RAISED = 2.0  # times the level
MOVED, STILL = 1e-4, 1e-6  # relative changes; between them (a saturated sigmoid, a sum of thousands) nothing is decided
FEW = 1 / 8  # below this share of unchanged positions the operation mixes all channels (a softmax, a custom norm)

Key = tuple[str, Side]  # (layer, side)


class Misplaced(NotSupported):
    """Channels arrive elsewhere than the groups say. `layer` reads them; `groups`: names of what it reads."""

    layer: str = ""
    groups: tuple[str, ...] = ()


@dataclass
class _Flow:
    """The levels that layers output, and the means that later layers read, for one forward pass at a time."""

    shapes: Mapping[str, Sequence[torch.Size]]  # outputs of each layer, call by call, as the network makes them
    device: torch.device
    raised: Mapping[Key, np.ndarray] = field(default_factory=dict)  # positions, bool (width,)
    read: dict[Key, list[Tensor]] = field(default_factory=dict)  # one mean per position, for each call
    calls: dict[str, int] = field(default_factory=dict)
    patterns: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    draw: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    levels: dict[str, Tensor] = field(default_factory=dict)

    def start(self, raised: Mapping[Key, np.ndarray]) -> None:
        """Begin a pass in which the positions `raised` of the layers' outputs have higher levels."""
        self.raised, self.read, self.calls = raised, {}, {}

    def note(self, layer: str, side: Side, x: Tensor, axis: int) -> None:
        """Record the mean of every channel of `x`; channels lie along `axis`."""
        others = [i for i in range(x.dim()) if i != axis % x.dim()]
        self.read.setdefault((layer, side), []).append(x.float().mean(others) if others else x.float())

    def output(self, layer: str, axis: int, channels: Tensor | None = None) -> Tensor:
        """Return an output in the layer's own shape: one level per channel times a pattern over pixels or tokens.

        Without the pattern all tokens of an attention would be equal. `channels`: levels to use; None: the layer's.
        """
        call = self.calls.get(layer, 0)
        self.calls[layer] = call + 1
        shape = self.shapes[layer][min(call, len(self.shapes[layer]) - 1)]
        axis %= len(shape)
        level = self._level(layer, shape[axis]) if channels is None else channels
        grid = tuple(1 if i == axis or (i == 0 and len(shape) > 1) else n for i, n in enumerate(shape))
        if grid not in self.patterns:
            self.patterns[grid] = (0.2 + 1.8 * torch.rand(grid, generator=self.draw)).to(self.device)
        along = level.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        return (along * self.patterns[grid]).expand(shape).clone()

    def _level(self, layer: str, width: int) -> Tensor:
        if layer not in self.levels:
            self.levels[layer] = (0.5 + 0.5 * torch.rand(width, generator=self.draw)).to(self.device)
        up = self.raised.get((layer, "out"))
        if up is None:
            return self.levels[layer]
        return torch.where(torch.from_numpy(up).to(self.device), RAISED, 1.0) * self.levels[layer]


def check_flow(model: nn.Module, example: Tensor, groups: Groups, shapes: Mapping[str, Sequence[torch.Size]]) -> None:
    """Check that channels arrive at the positions that `groups` names.

    `shapes`: qualified name of each convolution and linear layer -> its output's shape, call by call, on `example`.
    Four forward passes without products: nothing raised, half of all units, another half, one unit of each group.
    Warns when they fail.

    Raises:
        NotSupported: they arrive elsewhere; names layer and groups.
    """
    flow, sides = _Flow(shapes, example.device), sides_of(groups)
    rng = np.random.default_rng(0)
    passes = [[choose(group.size, rng) for group in groups] for choose in (_some, _some, _one)]
    try:
        with torch.no_grad(), _replaced_forwards(model, flow):
            flow.start({})
            model(example)
            before = flow.read
            for units in passes:
                raised = {side: _positions(owners, units) for side, owners in sides.items()}
                flow.start(raised)
                model(example)
                _compare(type(model).__name__, groups, before, flow.read, raised)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        warnings.warn(
            f"{type(model).__name__}: where its channels go could not be checked before the cut: {error}",
            RaybenchWarning, stacklevel=3,
        )  # fmt: skip


def _some(size: int, rng: np.random.Generator) -> np.ndarray:
    """Half of the units, at least one."""
    return rng.permutation(size) < max(1, size // 2)


def _one(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(size) == rng.integers(size)


def _positions(owners: Sequence[tuple[int, Member]], units: Sequence[np.ndarray]) -> np.ndarray:
    """Positions of one side, bool (width,), that belong to a chosen unit of any of its groups."""
    found = np.zeros(owners[0][1].width, dtype=bool)
    for group, member in owners:
        found[member.positions] |= units[group][member.units]
    return found


def _compare(
    model_name: str,
    groups: Groups,
    before: Mapping[Key, Sequence[Tensor]],
    after: Mapping[Key, Sequence[Tensor]],
    raised: Mapping[Key, np.ndarray],
) -> None:
    for side, calls in before.items():
        for was, now in zip(calls, after.get(side, ()), strict=False):
            change = ((now - was).abs() / was.abs().clamp_min(1e-12)).cpu().numpy()
            named = raised.get(side, np.zeros(len(change), dtype=bool))
            if len(named) != len(change):  # a norm's channels lie along another axis
                continue
            unnamed = (change > MOVED) & ~named
            if unnamed.any() and (change < STILL).mean() >= FEW:
                raise _misplaced(model_name, groups, side, int(unnamed.argmax()))


def _misplaced(model_name: str, groups: Groups, side: Key, position: int) -> Misplaced:
    layer = side[0]
    owners = [g.name for g in groups if any((m.layer, m.side) == side for m in g.members)]
    error = Misplaced(_message(model_name, layer, owners, position))
    error.layer, error.groups = layer, tuple(owners)
    return error


def _message(model_name: str, layer: str, owners: Sequence[str], position: int) -> str:
    whose = f"channels of group {', '.join(owners[:3])}" if owners else "channels that are cut"
    return (
        f"can't group {model_name}: {layer} reads at its channel {position} what the graph places elsewhere: {whose} "
        f"are reordered or mixed before {layer} (a shuffle, a flip, heads of an attention, sums over channels). "
        "List the layers before it in the model's `protected_layers`; then the rest can be pruned"
    )


@contextmanager
def _replaced_forwards(model: nn.Module, flow: _Flow) -> Iterator[None]:
    """Inside, convolutions and linear layers output levels, and norms output their input."""
    own: dict[Any, Any] = {}
    modules: dict[str, Any] = dict(model.named_modules())
    try:
        for name, module in modules.items():
            forward = _replacement(name, module, flow)
            if forward is not None:
                own[module] = module.__dict__.get("forward")
                module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _replacement(name: str, module: nn.Module, flow: _Flow) -> Callable[..., Tensor] | None:
    if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        return _layer(name, module, flow) if name in flow.shapes else None
    if isinstance(module, NORMS) or ("norm" in type(module).__name__.lower() and not any(module.children())):
        return _norm(name, module, flow)
    return None


def _layer(name: str, module: nn.Linear | _ConvNd, flow: _Flow) -> Callable[..., Tensor]:
    axis, per_input = -1, 0  # per_input: outputs of each input channel of a depthwise convolution
    if isinstance(module, _ConvNd):
        axis = -1 - len(module.kernel_size)
        if module.groups > 1 and module.groups == module.in_channels:
            per_input = module.out_channels // module.in_channels

    def forward(x: Tensor, *_: object, **__: object) -> Tensor:
        if not per_input:
            flow.note(name, "in", x, axis)
            return flow.output(name, axis)
        flow.note(name, "out", x.repeat_interleave(per_input, axis), axis)
        return flow.output(name, axis, flow.read[name, "out"][-1])

    return forward


def _norm(name: str, module: nn.Module, flow: _Flow) -> Callable[..., Tensor]:
    """Return the input: a norm over channels would raise them all. Layer norms aren't recorded: their axis varies."""
    noted = isinstance(module, NORMS) and not isinstance(module, nn.LayerNorm)

    def forward(x: Tensor, *_: object, **__: object) -> Tensor:
        if noted:
            flow.note(name, "out", x, 1)
        return x

    return forward
