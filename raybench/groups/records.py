"""The frozen records of a grouping: members, groups. Plain data without modules, tensors or library objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

LayerKind = Literal["conv", "linear", "depthwise", "norm", "parameter", "embedding"]
Side = Literal["out", "in"]


@dataclass(frozen=True)
class Member:
    """One side of one layer that shrinks with a group.

    `positions[i]` of the layer's side holds unit `units[i]` of the group. A side may belong to several
    groups (after a concatenation), and one unit may own several positions (attention heads, flattening,
    grouped convolutions).
    """

    layer: str  # qualified module name; of the parameter itself for `kind="parameter"`
    kind: LayerKind
    side: Side  # a norm, a depthwise convolution and a bare parameter count as "out"
    width: int  # all positions of this side in the unpruned layer
    positions: np.ndarray = field(repr=False)  # (m,) int64, ascending
    units: np.ndarray = field(repr=False)  # (m,) int64, the unit each position belongs to
    folds: int = 1  # groups of a grouped convolution or group norm, which must all stay equally wide
    axis: int | None = None  # of a bare parameter, where its channels lie; None: the last axis of that width


@dataclass(frozen=True)
class Group:
    """Channels of several layers that can only be removed together. A *unit* is the smallest part that can go."""

    name: str  # stable: the root layer's qualified name, with its part for attention (":heads", ":head-dim")
    size: int  # number of units
    members: tuple[Member, ...]
    part: str = "channels"  # channels | mlp | heads | head-dim | embed
    least: int = 1  # units that are always kept


@dataclass(frozen=True)
class Groups:
    """Every prunable group of one model, in a stable order."""

    groups: tuple[Group, ...]
    protected: tuple[str, ...] = ()  # names of layers whose outputs keep their width
    whole: Mapping[str, str] = field(default_factory=dict, compare=False)  # why they do, where it is known
    share: float = field(default=1.0, compare=False)  # of the layers' MACs, what goes at the fewest units

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)
