"""magnitude-l1 and magnitude-l2: a channel's score is the norm of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from raybench.errors import UserError
from raybench.methods.protocols import ElementwiseImportance, Layer
from raybench.registry import importance


@importance("magnitude-l1")
@dataclass(frozen=True)
class MagnitudeL1(ElementwiseImportance):
    """Sum of absolute weights over a channel (Li et al., section 3.1: s_j = sum |F_{i,j}|).

    Adapted to groups: every layer of the group is scored - filters, the next layers' input slices, norm scales
    and depthwise filters (torch-pruning leaves depthwise ones out) - and the layers' scores are averaged.
    """

    needs = "weights"
    paper = "Li et al., Pruning filters for efficient ConvNets, ICLR 2017"

    def saliency(self, layer: Layer) -> Tensor:
        """|w| of every weight."""
        return layer.weight.abs()


@importance("magnitude-l2")
@dataclass(frozen=True)
class MagnitudeL2(ElementwiseImportance):
    """Sum of squared weights over a channel, as torch-pruning's group magnitude with p=2 (no square root).

    `normalize: max` divides a group's scores by their maximum instead of their mean, as torch-pruning's script for
    CIFAR does after `group-norm`.
    """

    normalize: Literal["mean", "max"] = "mean"  # type: ignore[misc]  # a parameter here

    needs = "weights"
    paper = "Li et al., Pruning filters for efficient ConvNets, ICLR 2017; Fang et al., DepGraph, CVPR 2023, eq. 4"

    def __post_init__(self) -> None:
        """UserError for another way to normalise."""
        if self.normalize not in ("mean", "max"):
            raise UserError(f"magnitude-l2: found normalize={self.normalize!r}, expected 'mean' or 'max'")

    def saliency(self, layer: Layer) -> Tensor:
        """w^2 of every weight."""
        return layer.weight.square()
