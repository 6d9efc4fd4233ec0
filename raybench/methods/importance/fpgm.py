"""FPGM: a filter near the geometric median of its layer can be replaced by the others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raybench.methods.protocols import Importance, Layer
from raybench.registry import importance


@importance("fpgm")
@dataclass(frozen=True)
class FPGM(Importance):
    """Sum of Euclidean distances to the layer's other filters (He et al., section 3.3: g(x) = sum_j ||x - F_j||_2).

    Filters of convolutions (depthwise ones too) and rows of linear layers have a say, input slices and norms have
    none. Distances are between the raw weights; torch-pruning 1.6.1 squares them first and so measures something else.
    """

    needs = "weights"
    paper = "He et al., Filter pruning via geometric median, CVPR 2019, section 3.3"

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) sum over j of ||w_i - w_j||; None for input sides and for layers without filters."""
        if layer.side != "out" or layer.kind not in ("conv", "linear", "depthwise"):
            return None
        return distance_sums(layer.weight.flatten(1)).to(layer.weight.dtype)


def distance_sums(rows: Tensor) -> Tensor:
    """(n,) sum over j of ||rows_i - rows_j||, from (n, d), in float64.

    One matrix product: ||a - b||^2 = ||a||^2 + ||b||^2 - 2ab. In float64 the cancellation leaves an absolute
    error below 1e-7 of the norms, duplicates included.
    """
    rows = rows.double()
    rows = rows - rows.mean(0)  # distances don't change, the numbers that cancel get smaller
    gram = rows @ rows.t()
    lengths = gram.diagonal()
    squares = lengths.unsqueeze(0) + lengths.unsqueeze(1) - 2 * gram
    squares.fill_diagonal_(0)
    return squares.clamp_(min=0).sqrt_().sum(1)
