"""The physical cut: removes from a network the channels that a selection does not keep, by `Member` data alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import UserError, unknown
from raybench.groups.attention import attentions, refit
from raybench.groups.records import Group, Groups, Member, Side
from raybench.groups.widths import sides_of

Kept = Mapping[str, Sequence[int] | np.ndarray]  # group name -> units that stay


def apply(model: nn.Module, groups: Groups, kept: Kept) -> None:
    """Cut `model` in place down to the `kept` units of each group; groups that `kept` doesn't name stay whole.

    `model` must be as wide as when `groups` was traced. Parameters are replaced by smaller ones on the same device
    with the same `requires_grad`; gradients are dropped, so optimizers must be built afterwards. The cut network
    computes what the uncut one computes with the removed channels at zero (norms over channels aside).
    UserError for a group or unit that doesn't exist.
    """
    alive = alive_of(groups, kept)
    heads = {name: (attention, attention.num_heads) for name, attention in attentions(model).items()}
    for (layer, side), owners in sides_of(groups).items():
        keep = positions_left(owners, alive)
        if len(keep) < owners[0][1].width:
            _cut(model, layer, side, owners[0][1], torch.from_numpy(keep))
    counts = {group.name: int(alive[i].sum()) for i, group in enumerate(groups)}
    for name, (attention, before) in heads.items():
        left = counts.get(f"{name}.qkv:heads", before)
        width = attention.proj.in_features // left
        if left != before or width != round(attention.scale**-2):
            refit(attention, left, width)


def alive_of(groups: Groups, kept: Kept) -> list[np.ndarray]:
    """One bool array (size,) per group: which units stay. UserError for a group or unit that doesn't exist."""
    names = [group.name for group in groups]
    missing = [name for name in kept if name not in names]
    if missing:
        raise UserError(unknown("group", missing[0], names))
    return [_alive(group, kept.get(group.name)) for group in groups]


def _alive(group: Group, units: Sequence[int] | np.ndarray | None) -> np.ndarray:
    alive = np.full(group.size, units is None)
    if units is not None:
        index = np.asarray(units, dtype=np.int64)
        if not len(index) or index.min() < 0 or index.max() >= group.size:
            raise UserError(f"group {group.name} has units 0 to {group.size - 1} and keeps at least one; found {units}")
        alive[index] = True
    return alive


def positions_left(owners: Sequence[tuple[int, Member]], alive: Sequence[np.ndarray]) -> np.ndarray:
    """Positions of one side that stay, ascending: those whose unit stays in every group that owns them."""
    left = np.ones(owners[0][1].width, dtype=bool)
    for group, member in owners:
        left[member.positions] &= alive[group][member.units]
    return np.nonzero(left)[0]


def narrowed(groups: Groups, kept: Kept) -> Groups:
    """The groups of the cut network, with the remaining units and positions renumbered."""
    alive = alive_of(groups, kept)
    place = {}
    for key, owners in sides_of(groups).items():
        left = positions_left(owners, alive)
        place[key] = np.full(owners[0][1].width, -1)
        place[key][left] = np.arange(len(left))
    found = []
    for group, stays in zip(groups, alive, strict=True):
        unit = np.cumsum(stays) - 1
        members = tuple(_narrowed(m, place[m.layer, m.side], unit) for m in group.members)
        found.append(Group(group.name, int(stays.sum()), members, group.part, group.least))
    return Groups(tuple(found), groups.protected)


def _narrowed(member: Member, place: np.ndarray, unit: np.ndarray) -> Member:
    here = place[member.positions] >= 0
    width = int((place >= 0).sum())
    return Member(
        member.layer, member.kind, member.side, width,
        place[member.positions][here], unit[member.units][here], member.folds, member.axis,
    )  # fmt: skip


def _cut(model: nn.Module, layer: str, side: Side, member: Member, keep: Tensor) -> None:
    if member.kind == "parameter":
        owner, _, attribute = layer.rpartition(".")
        parameter = model.get_parameter(layer)
        setattr(model.get_submodule(owner), attribute, _selected(parameter, axis_of(parameter, member), keep))
        return
    CUTS[member.kind](model.get_submodule(layer), side, keep)


def axis_of(parameter: Tensor, member: Member) -> int:
    """The dimension of a bare parameter that the positions of `member` count along."""
    if member.axis is not None:
        return member.axis
    return max(i for i, size in enumerate(parameter.shape) if size == member.width)


def _selected(parameter: nn.Parameter, axis: int, keep: Tensor) -> nn.Parameter:
    data = parameter.detach().index_select(axis, keep.to(parameter.device))
    return nn.Parameter(data, requires_grad=parameter.requires_grad)


def _cut_weight(module: Any, axis: int, keep: Tensor) -> None:
    module.weight = _selected(module.weight, axis, keep)


def _cut_bias(module: Any, keep: Tensor) -> None:
    if module.bias is not None:
        module.bias = _selected(module.bias, 0, keep)


def _cut_linear(linear: nn.Linear, side: Side, keep: Tensor) -> None:
    _cut_weight(linear, 0 if side == "out" else 1, keep)
    if side == "out":
        linear.out_features = len(keep)
        _cut_bias(linear, keep)
    else:
        linear.in_features = len(keep)


def _cut_conv(conv: nn.modules.conv._ConvNd, side: Side, keep: Tensor) -> None:
    if side == "out":
        _cut_weight(conv, 1 if conv.transposed else 0, keep)
        conv.out_channels = len(keep)
        _cut_bias(conv, keep)
    else:  # a grouped convolution's weight holds one group's inputs; all groups keep the same of theirs
        inner = keep[: len(keep) // conv.groups]
        _cut_weight(conv, 0 if conv.transposed else 1, inner)
        conv.in_channels = len(keep)


def _cut_depthwise(conv: nn.modules.conv._ConvNd, side: Side, keep: Tensor) -> None:
    each = conv.out_channels // conv.in_channels  # outputs of each input channel, which go together
    _cut_weight(conv, 0, keep)
    _cut_bias(conv, keep)
    conv.out_channels, conv.in_channels = len(keep), len(keep) // each
    conv.groups = conv.in_channels


def _cut_norm(norm: Any, side: Side, keep: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(norm, name, None)
        if isinstance(tensor, nn.Parameter):
            setattr(norm, name, _selected(tensor, 0, keep))
        elif tensor is not None:  # statistics, and the weights of a frozen batch norm
            setattr(norm, name, tensor[keep.to(tensor.device)])
    for name, value in (("normalized_shape", (len(keep),)), ("num_channels", len(keep)), ("num_features", len(keep))):
        if hasattr(norm, name):
            setattr(norm, name, value)


CUTS: dict[str, Callable[[Any, Side, Tensor], None]] = {
    "conv": _cut_conv,
    "linear": _cut_linear,
    "depthwise": _cut_depthwise,
    "norm": _cut_norm,
}
