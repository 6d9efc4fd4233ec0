"""LAMP: squared magnitude as a share of all that are at least as large."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raybench.methods.protocols import ElementwiseImportance, Layer
from raybench.registry import importance


@importance("lamp")
@dataclass(frozen=True)
class LAMP(ElementwiseImportance):
    """Squared norm over the sum of the squared norms that are at least as large, itself included.

    Lee et al., section 2: score(u; W) = W[u]^2 / sum_{v >= u} W[v]^2 with W sorted ascending, for single weights of
    one layer. Adapted as torch-pruning does: W[u]^2 is unit u's squared L2 norm averaged over the group's layers,
    and the sum runs over the group instead of the layer (`normalize = "lamp"`); its strongest unit scores 1.
    """

    needs = "weights"
    normalize = "lamp"
    paper = "Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, ICLR 2021, section 2 (LAMP score)"

    def saliency(self, layer: Layer) -> Tensor:
        """w^2 of every weight."""
        return layer.weight.square()
