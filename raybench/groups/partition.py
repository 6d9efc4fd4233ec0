"""Divides the members of one walk into groups: channels, an attention's heads and head width, grouped channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from raybench.groups.attention import Attention
from raybench.groups.records import Group, Member


def partitioned(
    root: str, members: list[Member], heads: Mapping[str, Attention], attention: str, parts: tuple[str, ...]
) -> list[Group]:
    """One walk's members as groups: one for channels, up to two (heads, head width) for an attention."""
    if attention:
        groups = _attention_groups(root, members, attention, heads[attention])
        return [group for group in groups if group.part in parts]
    part = part_of(members, heads)
    if part != "channels" and part not in parts:
        return []
    folds, least = _folds(members)
    size = int(max(m.units.max() for m in members)) + 1
    units = np.arange(size) % (size // folds)
    return [Group(root, size // folds, _regroup(members, units), part, least)]


def _attention_groups(root: str, members: list[Member], name: str, attention: Attention) -> tuple[Group, Group]:
    """The groups of an attention's heads and of its head width, which own the same positions."""
    width, count = attention.proj.in_features, attention.num_heads
    dims = width // count
    heads = _regroup(members, np.arange(width) // dims) + _bias_tables(name, attention)
    head_dim = _regroup(members, np.arange(width) % dims)
    return Group(f"{root}:heads", count, heads, "heads"), Group(f"{root}:head-dim", dims, head_dim, "head-dim")


def _bias_tables(name: str, attention: Attention) -> tuple[Member, ...]:
    """The member for Swin's relative position bias, (positions, heads), which loses a column with each head."""
    if not isinstance(getattr(attention, "relative_position_bias_table", None), nn.Parameter):
        return ()
    each = np.arange(attention.num_heads)
    return (Member(f"{name}.relative_position_bias_table", "parameter", "out", len(each), each, each),)


def _regroup(members: list[Member], unit_of_root: np.ndarray) -> tuple[Member, ...]:
    return tuple(replace(m, units=unit_of_root[m.units]) for m in members)


def part_of(members: Sequence[Member], heads: Mapping[str, Attention]) -> str:
    """The part of an attention model that these channels belong to; `channels` everywhere else."""
    if not heads:
        return "channels"
    layers = {(m.layer, m.side) for m in members}
    if any((f"{name}.proj", "out") in layers for name in heads):
        return "embed"
    outs = [m for m in members if m.side == "out" and m.kind in ("conv", "linear", "depthwise")]
    return "mlp" if [m.kind for m in outs] == ["linear"] else "channels"


def _folds(members: list[Member]) -> tuple[int, int]:
    """(Channels of the root per unit, units that must stay).

    Grouped convolutions and group norms must lose the same channel of every one of their groups; a grouped
    convolution with one channel a group would be another operation, so two stay.
    """
    grouped = [m for m in members if m.folds > 1]
    least = 2 if any(m.kind == "conv" for m in grouped) else 1
    return max((m.folds for m in grouped), default=1), least
