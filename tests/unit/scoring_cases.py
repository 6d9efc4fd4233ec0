"""Small layers, images and criteria that the tests of scoring share."""

from __future__ import annotations

import dataclasses

import torch

from raybench.groups.records import Group, Groups
from raybench.methods.protocols import Importance
from tests.oracles.nets import member


@dataclasses.dataclass(frozen=True)
class Squares(Importance):
    needs = "sample-gradients"


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def single(layer: str, kind: str, width: int) -> Groups:
    """One group of one layer's outputs."""
    return Groups((Group(layer, width, (member(layer, kind, "out", width),)),))
