"""group-norm, DepGraph's group sparsity: weaker units are penalised more."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from raybench.groups.records import Groups
from raybench.methods.penalty import GroupWeights, bind_groups, is_other_norm
from raybench.methods.protocols import Regularizer
from raybench.registry import regularizer


@regularizer("group-norm", limits={"strength": (0, None), "alpha": (0, None)})
@dataclass
class GroupNorm(Regularizer):
    """strength / 2 * sum_k gamma_k ||w_k||^2 with gamma_k = 2^(alpha (s_max - s_k) / (s_max - s_min)).

    Fang et al., eq. 4 (the penalty) and eq. 5 (gamma, from 1 for the strongest unit to 2^alpha for the weakest);
    s_k is the L2 norm of all scored weights that unit k owns: layers, input slices, norm scales, but no position
    embeddings, class tokens or layer scales. gamma is held constant in the derivative, as in the paper.
    Where all units are equally strong gamma is 1 (torch-pruning divides by zero there and ignores alpha).
    `layer_norm: false` is torch-pruning's form for transformers: scales of layer norms count in s_k but get no penalty.
    """

    strength: float = 5e-4
    alpha: float = 4.0
    layer_norm: bool = True  # whether scales of norms other than batch norms are penalised
    _groups: tuple[GroupWeights, ...] = field(default=(), init=False, repr=False)

    version = 2
    capturable = True
    paper = "Fang et al., DepGraph: Towards any structural pruning, CVPR 2023, eq. 4-5"

    def bind(self, model: nn.Module, groups: Groups) -> None:
        """Collect the weights of every group."""
        self._groups = bind_groups(model, groups, pulled=lambda *layer: self.layer_norm or not is_other_norm(*layer))

    def add_gradients(self) -> None:
        """grad += strength * gamma_k * w."""
        for group in self._groups:
            group.pull(self.strength * shrinkage(group.squares().sqrt(), self.alpha))


def shrinkage(strengths: Tensor, alpha: float) -> Tensor:
    """gamma_k of eq. 5, (units,), from unit strengths s_k >= 0; all ones where they are equal."""
    span = strengths.max() - strengths.min()
    share = torch.where(span > 0, (strengths.max() - strengths) / span, torch.zeros_like(strengths))
    return torch.exp2(alpha * share)
