"""Uniform widths: every group keeps the same share of its channels, whichever they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from raybench.methods.protocols import Importance, Layer
from raybench.registry import importance


@importance("uniform")
@dataclass(frozen=True)
class Uniform(Importance):
    """Scores 1/n, 2/n, ..., 1 for the n units of a group, in a random order: all groups shrink by one width multiplier.

    The order is determined by the trial's seed and the name of the group's first layer. The group's other layers
    contribute no score (`reduce = "first"`).
    """

    needs = "nothing"
    reduce = "first"
    normalize = "max"
    paper = "Howard et al., MobileNets, arXiv 1704.04861, 2017, section 3.3 (width multiplier)"

    def layer_scores(self, layer: Layer) -> Tensor:
        """(channels,) in (0, 1]; channels of one unit have equal scores, those of other groups 0."""
        unit = torch.arange(len(layer.weight)) if layer.unit is None else layer.unit
        digest = hashlib.sha256(f"{layer.seed}:{layer.name}:{layer.side}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        count = int(unit.max()) + 1
        scores = (torch.randperm(count, generator=generator).double() + 1) / count
        return torch.where(unit >= 0, scores[unit.clamp(min=0)], 0.0)
