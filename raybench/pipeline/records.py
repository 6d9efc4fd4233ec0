"""The frozen records that walk through the pipeline. Plain data: no modules, no tensors, no library objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["conv", "linear", "depthwise", "norm", "parameter", "embedding"]
Side = Literal["out", "in"]


@dataclass(frozen=True)
class Member:
    """One dimension of one layer that shrinks together with a group.

    `positions[i]` of the layer's side holds unit `units[i]` of the group. A side may belong to several
    groups (after a concatenation), and one unit may own several positions (attention heads, flattening,
    grouped convolutions).
    """

    layer: str  # qualified module name; of the parameter itself for `kind="parameter"`
    kind: Kind
    side: Side  # a norm, a depthwise convolution and a bare parameter count as "out"
    width: int  # all positions of this side in the unpruned layer
    positions: np.ndarray = field(repr=False)  # (m,) int64, ascending
    units: np.ndarray = field(repr=False)  # (m,) int64, the unit each position belongs to
    folds: int = 1  # groups of a grouped convolution or group norm, which must all stay equally wide


@dataclass(frozen=True)
class Group:
    """Channels of several layers that can only be removed together. A *unit* is the least that can go at once."""

    name: str  # stable: the root layer's qualified name, with its part for attention (":heads", ":head-dim")
    size: int  # number of units
    members: tuple[Member, ...]
    part: str = "channels"  # channels | mlp | heads | head-dim | embed
    least: int = 1  # units that always stay


@dataclass(frozen=True)
class Groups:
    """Every prunable group of one model, in a stable order."""

    groups: tuple[Group, ...]
    protected: tuple[str, ...] = ()  # layers that are never pruned on their output side, by name

    def __iter__(self):  # noqa: ANN204
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Cut:
    """A selection: which units stay, and what the pruned network will cost. Counts are per image."""

    kept: Mapping[str, tuple[int, ...]]  # group name -> kept unit indices, ascending
    target: float  # asked speed-up
    speedup: float  # base MACs / MACs
    macs_base: int
    macs: int
    params_base: int
    params: int
    macs_tp_base: int | None = None  # as torch-pruning counts them, to compare with the paper
    macs_tp: int | None = None
    reason: str | None = None  # why the target was missed by more than 0.5 %, e.g. "granularity", "floor: a, b"
    steps: int = 0
