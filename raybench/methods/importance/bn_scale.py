"""bn-scale, Network Slimming's criterion: a channel's score is its batch-norm scale."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.methods.protocols import Importance, Layer
from raybench.registry import importance


@importance("bn-scale")
@dataclass(frozen=True)
class BNScale(Importance):
    """|gamma|, averaged over the batch norms of a group (Liu et al., section 3: gamma of eq. 2, that eq. 1 penalises).

    Other layers contribute no score. The selection breaks ties of equal scales by index.
    """

    needs = "weights"
    requires = "batch-norm"
    paper = "Liu et al., Learning efficient convolutional networks through network slimming, ICCV 2017"

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) |gamma| of a batch norm; None for every other layer."""
        return layer.weight.flatten().abs() if isinstance(layer.module, _BatchNorm) else None
