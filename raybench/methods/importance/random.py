"""Random pruning: the baseline that every criterion should beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from raybench.methods.protocols import Importance, Layer
from raybench.registry import importance


@importance("random")
@dataclass(frozen=True)
class Random(Importance):
    """Scores drawn from U(0, 1), determined by the trial's seed and the name of the group's first layer.

    They are the same on every device. The group's other layers contribute no score (`reduce = "first"`).
    """

    needs = "nothing"
    reduce = "first"
    normalize = "none"
    paper = "Mittal et al., Recovering from random pruning, WACV 2018"

    def layer_scores(self, layer: Layer) -> Tensor:
        """(channels,) uniform in [0, 1)."""
        digest = hashlib.sha256(f"{layer.seed}:{layer.name}:{layer.side}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(len(layer.weight), generator=generator)
