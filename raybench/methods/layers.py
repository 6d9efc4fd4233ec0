"""Lays out one side of one layer so that dimension 0 of its weight runs over that side's channels.

Criteria and regularizers read weights only through here, so the layout of transposed and grouped convolutions and
of bare parameters is defined in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.layer_types import CONVOLUTIONS, TRANSPOSED
from raybench.groups.records import Member, Side
from raybench.methods.protocols import Layer

UNSCORED_KINDS = ("parameter",)  # position embeddings, class tokens and layer scales aren't scored, as in torch-pruning


@dataclass(frozen=True)
class Evidence:
    """What was computed on the calibration images for a criterion's `needs`; the other fields are empty."""

    gradients: Mapping[str, Tensor] = field(default_factory=dict)  # parameter name -> dL/dw, L the mean loss
    gradient_squares: Mapping[str, Tensor] = field(default_factory=dict)  # parameter name -> mean_i (dL_i/dw)^2
    states: Mapping[tuple[str, Side], Any] = field(default_factory=dict)  # (layer, side) -> what `observe` gathered
    before: Mapping[str, np.ndarray] = field(default_factory=dict)  # layer -> energy of what feeds each of its inputs
    after: Mapping[str, np.ndarray] = field(default_factory=dict)  # layer -> energy of what reads each of its outputs
    seconds: float = 0.0  # time that it took


@dataclass(frozen=True)
class Arrangement:
    """Where the channels of one side lie in a weight.

    `axis` is the weight's dimension that runs over them. With `local > 1` that dimension runs over the channels
    *within* one of `local` convolution groups, and dimension 0 is split among the groups. `split` is the number
    of convolution groups that the *other* side is split into (1 for everything but grouped convolutions).
    """

    axis: int
    local: int = 1
    split: int = 1

    def rows(self, weight: Tensor) -> Tensor:
        """`weight` with its channels first: (channels, rest...); at least two dimensions."""
        if self.local > 1:  # (g * a, b, k) -> (g, a, b, k) -> (g, b, a, k) -> (g * b, a, k)
            return weight.unflatten(0, (self.local, -1)).transpose(1, 2).flatten(0, 1)
        return weight.unsqueeze(1) if weight.dim() == 1 else weight.movedim(self.axis, 0)

    def whole(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`: the weight from its rows."""
        if self.local > 1:
            return rows.unflatten(0, (self.local, -1)).transpose(1, 2).flatten(0, 1)
        return rows.movedim(0, self.axis)

    def spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """Reshape one value per channel, (channels,), so that it broadcasts against `weight`."""
        if self.local > 1:
            outer = weight.shape[0] // self.local
            values = values.view(self.local, 1, -1).expand(-1, outer, -1).flatten(0, 1)
            return values.reshape(*values.shape, *[1] * (weight.dim() - 2))
        shape = [1] * weight.dim()
        shape[self.axis] = -1
        return values.view(shape)

    def restrict(self, rows: Tensor, other: Tensor, layer: str) -> Tensor:
        """Select the other side's remaining positions `other` in dimension 1 of `rows`. NotSupported names `layer`."""
        if self.split == 1:
            return rows.index_select(1, other)
        inner = rows.shape[1]
        if bool((torch.bincount(other // inner, minlength=self.split) != len(other) // self.split).any()):
            raise NotSupported(f"{layer}: a grouped convolution must keep equally many channels in each group")
        index = (other.view(self.split, 1, -1) % inner).reshape(self.split, 1, -1, *[1] * (rows.dim() - 2))
        return torch.take_along_dim(rows.unflatten(0, (self.split, -1)), index, dim=2).flatten(0, 1)


def weight_of(model: nn.Module, member: Member) -> Tensor | None:
    """The layer's weight, or the bare parameter itself; None for a layer without a weight (`affine=False`)."""
    if member.kind == "parameter":
        return model.get_parameter(member.layer)
    return getattr(model.get_submodule(member.layer), "weight", None)


def weight_name(member: Member) -> str:
    """Qualified name of the layer's weight, or of the bare parameter."""
    return member.layer if member.kind == "parameter" else f"{member.layer}.weight"


def arrangement(model: nn.Module, member: Member) -> Arrangement:
    """Where `member`'s channels lie in its layer's weight. NotSupported names a layer whose layout is unknown."""
    if member.kind == "parameter":
        if member.axis is not None:
            return Arrangement(member.axis)
        shape = model.get_parameter(member.layer).shape
        axes = [axis for axis, size in enumerate(shape) if size == member.width]
        if not axes:
            raise NotSupported(f"{member.layer}: no dimension of {tuple(shape)} has {member.width} channels")
        return Arrangement(axes[-1])  # channels-last, as positional embeddings, class tokens and layer scales are
    module = model.get_submodule(member.layer)
    if member.kind in ("norm", "depthwise"):
        return Arrangement(0)
    if member.kind == "embedding":
        return Arrangement(1)
    if isinstance(module, nn.Linear):
        return Arrangement(0 if member.side == "out" else 1)
    if not isinstance(module, CONVOLUTIONS):
        raise NotSupported(f"{member.layer}: no known layout of the weight of {type(module).__name__}")
    first = "in" if isinstance(module, TRANSPOSED) else "out"  # transposed: (in, out / groups, ...)
    if member.side == first:
        return Arrangement(0, split=module.groups)
    return Arrangement(1, local=module.groups, split=module.groups)


def by_channel(layer: Layer, values: Tensor) -> Tensor:
    """Lay out what a layer reads or gives, or its gradient, so that dimension 0 runs over the channels.

    Args:
        layer: the watched side of a layer.
        values: the layer's input for an "in" side, its output for an "out" side; the batch comes first.

    Returns:
        (channels, images x positions).

    Raises:
        NotSupported: no dimension has as many entries as the side has channels. It names the layer.

    Example:
        >>> layer = Layer("fc", "linear", "out", weight=torch.zeros(8, 3))
        >>> by_channel(layer, torch.zeros(2, 5, 8)).shape  # 2 images, 5 tokens
        torch.Size([8, 10])
    """
    width, first = layer.weight.shape[0], layer.kind in ("conv", "depthwise")
    if layer.kind == "norm":  # layer and RMS norms run over the last dimension, those of maps ("2d") and others over 1
        last = hasattr(layer.module, "normalized_shape") and "2d" not in type(layer.module).__name__.lower()
        first = not last or values.shape[-1] != width
    axis = 1 if first else -1
    if values.dim() < 2 or values.shape[axis] != width:
        raise NotSupported(f"{layer.name}: found the shape {tuple(values.shape)}, expected {width} channels in it")
    return values.movedim(axis, 0).flatten(1)


def view(
    model: nn.Module,
    member: Member,
    *,
    evidence: Evidence | None = None,
    other: np.ndarray | Tensor | None = None,
    seed: int = 0,
) -> Layer:
    """`member`'s side of its layer, channels first, with what `evidence` holds for it.

    `other`: remaining positions of the layer's other side, ascending; None: all of them. Norms, depthwise
    convolutions, embeddings and bare parameters have no other side. Tensors are detached and share the model's memory
    where the layout allows.
    """
    module = None if member.kind == "parameter" else model.get_submodule(member.layer)
    weight, layout, name = weight_of(model, member), arrangement(model, member), weight_name(member)
    one_sided = member.kind in ("norm", "depthwise", "parameter", "embedding")
    kept = None if other is None or one_sided or weight is None else torch.as_tensor(other, device=weight.device)

    def laid_out(tensor: Tensor) -> Tensor:
        rows = layout.rows(tensor.detach())
        return rows if kept is None else layout.restrict(rows, kept, member.layer)

    def computed(values: Mapping[str, Tensor]) -> Tensor | None:
        return laid_out(values[name]) if name in values else None

    def around(energies: Mapping[str, np.ndarray], side: Side) -> Tensor | None:
        if weight is None or member.layer not in energies:
            return None
        values = torch.as_tensor(energies[member.layer]).to(weight)
        spread = arrangement(model, replace(member, side=side)).spread(values, weight)
        return laid_out(spread.expand(*weight.shape[:2], *spread.shape[2:]))

    bias = getattr(module, "bias", None) if member.side == "out" else None
    unit = torch.full((member.width,), -1, dtype=torch.int64)
    unit[torch.as_tensor(member.positions)] = torch.as_tensor(member.units)
    return Layer(
        name=member.layer,
        kind=member.kind,
        side=member.side,
        weight=torch.empty(member.width, 0) if weight is None else laid_out(weight),
        bias=bias.detach() if isinstance(bias, Tensor) else None,
        gradient=computed(evidence.gradients) if evidence else None,
        gradient_square=computed(evidence.gradient_squares) if evidence else None,
        state=evidence.states.get((member.layer, member.side)) if evidence else None,
        before=around(evidence.before, "in") if evidence else None,
        after=around(evidence.after, "out") if evidence else None,
        module=module,
        unit=unit,
        seed=seed,
    )
