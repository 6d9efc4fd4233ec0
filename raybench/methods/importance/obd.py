"""obd-c and obd-hessian: Optimal Brain Damage with the diagonal of a Fisher matrix in place of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raybench.methods.protocols import Importance, Layer
from raybench.registry import importance

EPSILON = 1e-10  # divisor of a layer whose saliencies are all zero, as in the authors' code


@importance("obd-c")
@dataclass(frozen=True)
class OBDC(Importance):
    """sum w^2 F over a channel's weights, as a share of its layer; F is the Fisher diagonal with sampled labels.

    Wang et al. (EigenDamage), section 3: OBD's saliency (1/2) H_qq w_q^2 with F for H, summed over a filter (the
    constant 1/2 drops out). F = E_x E_{y ~ softmax} (dL/dw)^2, with one gradient and one drawn label per sample.
    As in the authors' fisher_diag pruner each layer's filter scores are divided by their sum. Adapted to groups:
    every layer of the group is scored, norm scales and input slices too.
    """

    needs = "sample-gradients"
    labels = "sampled"
    paper = "Wang et al., EigenDamage, ICML 2019, section 3 (C-OBD with the Fisher diagonal)"

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) shares of the layer's saliency, summing to 1."""
        scores = saliency(layer)
        return scores / (scores.sum() + EPSILON * float(scores.sum() == 0))


@importance("obd-hessian")
@dataclass(frozen=True)
class OBDHessian(Importance):
    """sum w^2 E[g^2] over a channel's weights: OBD with the empirical Fisher diagonal (true labels, all samples).

    LeCun et al., eq. 2 for one deleted weight, step 4 of the recipe: s_k = h_kk u_k^2 / 2 (the constant drops out).
    torch-pruning 1.6.1 keeps the last sample only.
    """

    needs = "sample-gradients"
    paper = "LeCun et al., Optimal brain damage, NeurIPS 1989, eq. 2"

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) summed saliency."""
        return saliency(layer)


def saliency(layer: Layer) -> Tensor:
    """(channels,) sum of w^2 E[g^2]; zero for a parameter that the loss doesn't depend on."""
    if layer.gradient_square is None:
        return torch.zeros(len(layer.weight), dtype=layer.weight.dtype, device=layer.weight.device)
    return (layer.weight.square() * layer.gradient_square).flatten(1).sum(1)
