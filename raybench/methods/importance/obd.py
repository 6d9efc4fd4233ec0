"""obd-c and obd-hessian: Optimal Brain Damage with the diagonal of a Fisher matrix in place of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raybench.errors import UserError
from raybench.methods.protocols import Importance, Layer, has_filters
from raybench.registry import importance

EPSILON = 1e-10  # obd-c: added to every entry of the Fisher diagonal, as in the authors' code


@importance("obd-c")
@dataclass(frozen=True)
class OBDC(Importance):
    """sum w^2 F over a channel's weights, as a share of its layer; F is the Fisher diagonal with sampled labels.

    Wang et al. (EigenDamage), section 3: OBD's saliency (1/2) H_qq w_q^2 with F for H, summed over a filter (the
    constant 1/2 drops out). F = E_x E_{y ~ softmax} (dL/dw)^2 + 1e-10, with one gradient and one drawn label per
    sample. As in the authors' fisher_diag pruner output filters are scored, each layer's over their sum. Adapted to
    groups: the shares of the group's layers are averaged. `shares: false` averages the sums themselves, as
    torch-pruning does; `sides: all` scores every layer of the group, input slices and norm scales too.
    """

    sides: Literal["out", "all"] = "out"
    shares: bool = True

    needs = "sample-gradients"
    labels = "sampled"
    version = 2
    paper = "Wang et al., EigenDamage, ICML 2019, section 3 (C-OBD with the Fisher diagonal)"

    def __post_init__(self) -> None:
        """UserError for other sides than these."""
        if self.sides not in ("out", "all"):
            raise UserError(f"obd-c: found sides={self.sides!r}, expected 'out' or 'all'")

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) of the layer's filters; None for other sides, unless all are scored."""
        if self.sides == "out" and not has_filters(layer):
            return None
        scores = saliency(layer, EPSILON)
        total = scores.sum()
        return scores / total if self.shares and total > 0 else scores


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


def saliency(layer: Layer, epsilon: float = 0.0) -> Tensor:
    """(channels,) sum of w^2 (E[g^2] + epsilon); g is 0 for a parameter that the loss doesn't depend on."""
    found = layer.gradient_square
    squares = torch.zeros_like(layer.weight) if found is None else found
    return (layer.weight.square() * (squares + epsilon)).flatten(1).sum(1)
