"""taylor: the first-order Taylor expansion of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raybench.methods.protocols import ElementwiseImportance, Layer
from raybench.registry import importance


@importance("taylor")
@dataclass(frozen=True)
class Taylor(ElementwiseImportance):
    """Sum of |g w| over a channel's weights, g the gradient of the mean loss over all calibration images.

    Molchanov et al. 2019, section 3: I_m = (g_m w_m)^2 for one parameter, summed over the parameters of a structure.
    Adapted as PruningBench and torch-pruning do: the sum of absolute values instead of squares. Norm scales are
    scored too: the paper's gate variant prefers them (torch-pruning doesn't use their gradients).
    """

    needs = "gradients"
    paper = "Molchanov et al., Importance estimation for neural network pruning, CVPR 2019, section 3"

    def saliency(self, layer: Layer) -> Tensor:
        """|g w| of every weight; 0 for a parameter that the loss doesn't depend on."""
        return torch.zeros_like(layer.weight) if layer.gradient is None else (layer.weight * layer.gradient).abs()
