"""Do channels go where the graph says they go? Marked channels are sent through the network before anything is cut.

torch-pruning takes every operation that it doesn't know for an element-wise one, so a channel shuffle, a flip or an
attention of one's own would be cut at the wrong places and still run. Here every convolution and linear layer
puts out one level per channel instead of its result. Raising the levels of some units must raise what the layers
after them read at the positions that the groups name, and at no others.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.pipeline import surgery
from raybench.pipeline.group_members import CONVOLUTIONS, NORMS, Layers
from raybench.pipeline.records import Groups
from raybench.pipeline.widths import sides_of

RAISED = 2.0  # times the level
MOVED, STILL = 1e-4, 1e-6  # relative changes; between them (a saturated sigmoid, a sum of thousands) nothing is said
FEW = 1 / 8  # where fewer positions stand still, the operation counts all channels (a softmax, a norm of one's own)

Side = tuple[str, str]


@dataclass
class _Flow:
    """Levels in, what was read out. One forward pass at a time; `read` has one mean per position and call."""

    shapes: Mapping[str, Sequence[torch.Size]]  # outputs of each layer, call by call, as the network makes them
    device: torch.device
    raised: Mapping[Side, np.ndarray] = field(default_factory=dict)  # positions, bool (width,)
    read: dict[Side, list[Tensor]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    patterns: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    draw: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    levels: dict[str, Tensor] = field(default_factory=dict)

    def start(self, raised: Mapping[Side, np.ndarray]) -> None:
        """Begin a pass in which the positions `raised` of the layers' outputs are higher."""
        self.raised, self.read, self.calls = raised, {}, {}

    def note(self, layer: str, side: str, x: Tensor, axis: int) -> None:
        """Keep the mean of every channel of `x`, which lie along `axis`."""
        others = [i for i in range(x.dim()) if i != axis % x.dim()]
        self.read.setdefault((layer, side), []).append(x.float().mean(others) if others else x.float())

    def output(self, layer: str, axis: int, channels: Tensor | None = None) -> Tensor:
        """A result in the layer's own shape: a level per channel times a pattern over pixels or tokens.

        The pattern keeps attention from seeing nothing but equal tokens. `channels`: the levels, where not its own.
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
    """NotSupported, naming layer and groups, where channels arrive at other positions than `groups` says.

    `shapes`: qualified name of each convolution and linear layer -> its output's shape, call by call, on `example`.
    Four forward passes without a product: nothing raised, half of all units, another half, one unit of each group.
    """
    flow, sides = _Flow(shapes, example.device), sides_of(groups)
    rng = np.random.default_rng(0)
    passes = [[choose(group.size, rng) for group in groups] for choose in (_some, _some, _one)]
    try:
        with torch.no_grad(), _standing_in(model, flow):
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
            UserWarning, stacklevel=3,
        )  # fmt: skip


def check_cut(model: nn.Module, example: Tensor, groups: Groups, split: Sequence[str]) -> None:
    """NotSupported where the network fails, or leads channels elsewhere, once half of every group is gone.

    Worth its time where a forward splits channels: `chunk(2)` follows a cut, `split(16)` and `x[:, :16]` don't.
    `split`: the groups that are split, to name them.
    """
    kept = {g.name: range(0, g.size, 2) if g.size >= 2 * g.least else range(g.size) for g in groups}
    slim = copy.deepcopy(model)
    surgery.apply(slim, groups, kept)
    layers = Layers.of(slim)
    try:
        with torch.no_grad(), layers.note_shapes():
            slim(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise NotSupported(
            f"can't group {type(model).__name__}: without half of its channels it fails ({error}). Its forward splits "
            f"or slices the channels of group {', '.join(split[:3])} by numbers that stand in the code, where `chunk` "
            "would follow; or name their layers in the model's `protected_layers`, and the rest can be pruned"
        ) from error
    check_flow(slim, example, surgery.narrowed(groups, kept), layers.shapes)


def _some(size: int, rng: np.random.Generator) -> np.ndarray:
    """Half of the units, at least one."""
    return rng.permutation(size) < max(1, size // 2)


def _one(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(size) == rng.integers(size)


def _positions(owners: Sequence, units: Sequence[np.ndarray]) -> np.ndarray:
    """Positions of one side that belong to a chosen unit of any of the groups that own it."""
    found = np.zeros(owners[0][1].width, dtype=bool)
    for group, member in owners:
        found[member.positions] |= units[group][member.units]
    return found


def _compare(
    model_name: str,
    groups: Groups,
    before: Mapping[Side, Sequence[Tensor]],
    after: Mapping[Side, Sequence[Tensor]],
    raised: Mapping[Side, np.ndarray],
) -> None:
    for side, calls in before.items():
        for was, now in zip(calls, after.get(side, ()), strict=False):
            change = ((now - was).abs() / was.abs().clamp_min(1e-12)).cpu().numpy()
            named = raised.get(side, np.zeros(len(change), dtype=bool))
            strange = (change > MOVED) & ~named
            if len(named) == len(change) and strange.any() and (change < STILL).mean() >= FEW:
                raise NotSupported(_told(model_name, groups, side, int(strange.argmax())))


def _told(model_name: str, groups: Groups, side: Side, position: int) -> str:
    layer = side[0]
    owners = [g.name for g in groups if any((m.layer, m.side) == side for m in g.members)]
    whose = f"channels of group {', '.join(owners[:3])}" if owners else "channels that are cut"
    return (
        f"can't group {model_name}: {layer} reads at its channel {position} what the graph places elsewhere: {whose} "
        f"are reordered or mixed before {layer} (a shuffle, a flip, heads of an attention, sums over channels). "
        "Name the layers before it in the model's `protected_layers`, and the rest can be pruned"
    )


@contextmanager
def _standing_in(model: nn.Module, flow: _Flow) -> Iterator[None]:
    """Layers put out levels, and norms their input, for as long as this lasts."""
    own = {}
    try:
        for name, module in model.named_modules():
            forward = _stand_in(name, module, flow)
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


def _stand_in(name: str, module: nn.Module, flow: _Flow) -> Callable[..., Tensor] | None:
    if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        return _layer(name, module, flow) if name in flow.shapes else None
    if isinstance(module, NORMS) or ("norm" in type(module).__name__.lower() and not any(module.children())):
        return _norm(name, module, flow)
    return None


def _layer(name: str, module: nn.Module, flow: _Flow) -> Callable[..., Tensor]:
    axis = -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)
    each = getattr(module, "groups", 1) > 1 and module.groups == module.in_channels

    def forward(x: Tensor, *_: object, **__: object) -> Tensor:
        flow.note(name, "out" if each else "in", x, axis)
        if not each:
            return flow.output(name, axis)
        levels = flow.read[name, "out"][-1].repeat_interleave(module.out_channels // module.in_channels)
        return flow.output(name, axis, levels)

    return forward


def _norm(name: str, module: nn.Module, flow: _Flow) -> Callable[..., Tensor]:
    """Pass on what comes: a norm over channels would raise them all. Layer norms come with channels on either axis."""
    noted = isinstance(module, NORMS) and not isinstance(module, nn.LayerNorm)

    def forward(x: Tensor, *_: object, **__: object) -> Tensor:
        if noted:
            flow.note(name, "out", x, 1)
        return x

    return forward
