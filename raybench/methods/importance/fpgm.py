"""FPGM: filters near the geometric median of their layer are removed, since the others can replace them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raybench.methods.protocols import PairwiseImportance
from raybench.registry import importance


@importance("fpgm")
@dataclass(frozen=True)
class FPGM(PairwiseImportance):
    """Sum of Euclidean distances to the layer's other filters (He et al., section 3.3: g(x) = sum_j ||x - F_j||_2).

    Filters of convolutions (depthwise ones too) and rows of linear layers are scored, input slices and norms are
    not. Distances are between the raw weights; torch-pruning 1.6.1 squares the weights first.
    """

    needs = "weights"
    version = 3
    paper = "He et al., Filter pruning via geometric median, CVPR 2019, section 3.3"

    def pair_value(self, squares: Tensor) -> Tensor:
        """The distance itself."""
        return squares.sqrt_()
