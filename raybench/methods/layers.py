"""One side of one layer, arranged so that dimension 0 runs over that side's channels.

Every criterion and every regularizer looks at weights through here, so that a transposed convolution, a
grouped convolution's input side or a bare parameter is laid out in one place only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.methods.protocols import Layer
from raybench.pipeline.records import Member

if TYPE_CHECKING:
    from raybench.methods.evidence import Evidence

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@dataclass(frozen=True)
class Arrangement:
    """Where the channels of one side lie in a weight.

    `axis` is the weight's dimension that runs over them. With `local > 1` that dimension only counts channels
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
        """The weight whose `rows` these are: the other way round."""
        if self.local > 1:
            return rows.unflatten(0, (self.local, -1)).transpose(1, 2).flatten(0, 1)
        return rows.movedim(0, self.axis)

    def spread(self, values: Tensor, weight: Tensor) -> Tensor:
        """One value a channel, (channels,), shaped so that it multiplies `weight` channel by channel."""
        if self.local > 1:
            outer = weight.shape[0] // self.local
            values = values.view(self.local, 1, -1).expand(-1, outer, -1).flatten(0, 1)
            return values.reshape(*values.shape, *[1] * (weight.dim() - 2))
        shape = [1] * weight.dim()
        shape[self.axis] = -1
        return values.view(shape)

    def restrict(self, rows: Tensor, other: Tensor, layer: str) -> Tensor:
        """`rows` with only the `other` side's kept positions in dimension 1."""
        if self.split == 1:
            return rows.index_select(1, other)
        inner = rows.shape[1]
        if bool((torch.bincount(other // inner, minlength=self.split) != len(other) // self.split).any()):
            raise NotSupported(f"{layer}: a grouped convolution must keep equally many channels in each group")
        index = (other.view(self.split, 1, -1) % inner).reshape(self.split, 1, -1, *[1] * (rows.dim() - 2))
        return torch.take_along_dim(rows.unflatten(0, (self.split, -1)), index, dim=2).flatten(0, 1)


def weight_of(model: nn.Module, member: Member) -> Tensor | None:
    """The parameter behind `member`: the layer's weight, or the bare parameter itself; None for a layer without."""
    if member.kind == "parameter":
        return model.get_parameter(member.layer)
    return getattr(model.get_submodule(member.layer), "weight", None)


def weight_name(member: Member) -> str:
    """Qualified name of the parameter behind `member`."""
    return member.layer if member.kind == "parameter" else f"{member.layer}.weight"


def arrangement(model: nn.Module, member: Member) -> Arrangement:
    """Where `member`'s channels lie in its weight. NotSupported names a layer whose layout is unknown."""
    if member.kind == "parameter":
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


def view(
    model: nn.Module,
    member: Member,
    *,
    evidence: Evidence | None = None,
    other: np.ndarray | Tensor | None = None,
    seed: int = 0,
) -> Layer:
    """`member`'s side of its layer, channels first, with what `evidence` holds for it.

    `other`: the positions of the layer's other side that are still there, ascending; None: all of them. Norms,
    depthwise convolutions, embeddings and bare parameters have no other side. Tensors are detached and share the
    model's memory where the layout allows.
    """
    module = None if member.kind == "parameter" else model.get_submodule(member.layer)
    weight, layout, name = weight_of(model, member), arrangement(model, member), weight_name(member)
    one_sided = member.kind in ("norm", "depthwise", "parameter", "embedding")
    kept = None if other is None or one_sided or weight is None else torch.as_tensor(other, device=weight.device)

    def laid_out(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        rows = layout.rows(tensor.detach())
        return rows if kept is None else layout.restrict(rows, kept, member.layer)

    bias = getattr(module, "bias", None) if member.side == "out" else None
    unit = torch.full((member.width,), -1, dtype=torch.int64)
    unit[torch.as_tensor(member.positions)] = torch.as_tensor(member.units)
    return Layer(
        name=member.layer,
        kind=member.kind,
        side=member.side,
        weight=laid_out(weight),
        bias=bias.detach() if isinstance(bias, Tensor) else None,
        gradient=laid_out(evidence.gradients.get(name)) if evidence else None,
        gradient_square=laid_out(evidence.gradient_squares.get(name)) if evidence else None,
        state=evidence.states.get((member.layer, member.side)) if evidence else None,
        module=module,
        unit=unit,
        seed=seed,
    )
