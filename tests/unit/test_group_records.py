"""Whole groupings of small networks, by the graph and by labels alone, and what their cuts cost, as recorded.

Other tests show that such groupings cut what they should; this one notices any change. The record is written anew by
`python -m tests.unit.test_group_records`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.groups.cost import Cost
from raybench.groups.follow import candidates
from raybench.groups.records import Groups, Member
from raybench.groups.trace import DEFAULT_PARTS, trace
from tests.label_text import runs
from tests.pruning_nets import (
    IMAGE,
    Branches,
    Chain,
    FewInEach,
    Grouped,
    Tied,
    TorchAttention,
    normed_vit,
    shuffled,
    small_resnet,
    small_swin,
    small_vit,
)
from tests.unit.test_group_follow import FOLLOWED, Between, Does
from tests.unit.test_group_split import NETS, Parted

GOLDEN = Path(__file__).parent.parent / "golden/groupings.json"


class Bare(nn.Module):
    """Parameters of the root itself: a scale for each channel, and a matrix between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(12, 6, 1)
        self.scale, self.mix = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(8, 12))
        self.one, self.head = nn.Parameter(torch.rand(1)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * self.scale * self.one
        return self.head(self.last(torch.einsum("nchw,cd->ndhw", x, self.mix)).mean((2, 3)))


class Cube(nn.Module):
    """A bare weight with three axes of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 6), nn.Linear(3, 5), nn.Linear(4, 2)
        self.cube = nn.Parameter(torch.rand(6, 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return self.head(torch.einsum("na,nb,abc->nc", self.a(x), self.b(x), self.cube))


class Sequence1d(nn.Module):
    """Convolutions along a sequence, a transposed one among them, and every kind of norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)
        self.up, self.each = nn.ConvTranspose1d(8, 6, 2, 2), nn.InstanceNorm1d(6, affine=True)
        self.last, self.groups = nn.Conv1d(6, 12, 1), nn.GroupNorm(3, 12)
        self.layer, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.each(self.up(self.norm(self.first(x.flatten(2)))))
        return self.head(self.layer(self.groups(self.last(x)).transpose(1, 2)).mean(1))


class Volume(nn.Module):
    """Convolutions of volumes, one for each channel among them, and a transposed one in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each = nn.Conv3d(3, 10, 3, padding=1), nn.Conv3d(10, 10, 1, groups=10)
        self.back = nn.Conv3d(10, 8, 1)
        self.up, self.head = nn.ConvTranspose2d(8, 6, 1, groups=2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.back(self.each(self.first(x[:, :, None]))).mean(2)).mean((2, 3)))


class Switch(nn.Module):
    """Two outputs in a dict, one of them made by a layer alone, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.mask, self.head = nn.Conv2d(8, 5, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = torch.relu(self.first(x))
        return {"classes": self.head(x.mean((2, 3))), "masks": [self.mask(x)]}


def unequal(x: Tensor) -> Tensor:
    few, many = x.split([4, 12], 1)
    return torch.cat([many, few], 1)


MADE: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda net=net: net for name, (net, _) in FOLLOWED.items()},
    **{f"split-{name}": lambda net=net: net for name, net in NETS.items()},
    **{kind.__name__: kind for kind in (Branches, Grouped, Tied, TorchAttention)},
    **{kind.__name__: kind for kind in (Bare, Cube, Sequence1d, Volume, Switch)},
    **{make.__name__: make for make in (normed_vit, small_resnet, small_swin, small_vit)},
    **{f"few-in-{n}": lambda n=n: FewInEach(n) for n in (2, 3, 6)},
    "shuffled": lambda: Chain(shuffled),
    "unequal": lambda: Chain(unequal),
    "named": lambda: Chain(lambda x: x.reshape(len(x), 16, 16, 16) * 2),
    "slice": lambda: Parted(lambda x: x[:, :5], 5),
    "slice-behind": lambda: Parted(lambda x: x[:, 4:], 12),
    "prelu-of-one": lambda: Between(nn.PReLU(16)),
    "softmax": lambda: Chain(lambda x: x.softmax(1)),
    "detached": lambda: Chain(lambda x: x + x.detach().sigmoid()),
    "written": lambda: Chain(lambda x: torch.zeros_like(x).add_(x)),
    "fold": lambda: Between(Does(lambda x: F.fold(F.unfold(x, 3, padding=1), (16, 16), 3, padding=1))),
}  # fmt: skip


def member_text(m: Member) -> str:
    more = (f" of {m.folds}" if m.folds != 1 else "") + (f" along {m.axis}" if m.axis is not None else "")
    return f"{m.layer} {m.kind} {m.side} {m.width}{more}: {runs(m.positions)} = {runs(m.units)}"


def groups_text(groups: Groups) -> list[str]:
    return [
        line
        for g in groups
        for line in (f"{g.name}: {g.size} {g.part}, {g.least} stay", *(f"  {member_text(m)}" for m in g.members))
    ]


def recorded(model: nn.Module) -> dict[str, Any]:
    """Everything that the groups of `model` say, found in both ways."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        groups = trace(model.eval(), IMAGE[:1])
    cost = Cost.measure(model, IMAGE[:1], groups)
    few = np.array([g.least for g in groups])
    cuts = np.array([cost.sizes, np.maximum(few, cost.sizes // 2), few])
    found = candidates(model, IMAGE[:1], DEFAULT_PARTS)
    return {
        "groups": groups_text(groups),
        "whole": dict(groups.whole),
        "share": round(groups.share, 4),
        "warned": [str(one.message) for one in caught if issubclass(one.category, UserWarning)],
        "macs": cost.macs(cuts).tolist(),
        "params": cost.params(cuts).tolist(),
        "by labels": groups_text(found.groups),
        "whole by labels": dict(found.whole),
    }


@pytest.mark.parametrize("name", MADE)
def test_groupings_are_those_that_were_recorded(name: str) -> None:
    torch.manual_seed(0)
    assert recorded(MADE[name]()) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: recorded(make()) for name, make in MADE.items()}, indent=1) + "\n")
