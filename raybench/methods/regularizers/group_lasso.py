"""group-lasso: the L2 norm of all weights that are removed together and scored."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from raybench.groups.records import Groups
from raybench.methods.penalty import GroupWeights, bind_groups
from raybench.methods.protocols import Regularizer
from raybench.registry import regularizer


@regularizer("group-lasso", limits={"strength": (0, None)})
@dataclass
class GroupLasso(Regularizer):
    """strength * sum_k ||w_k||_2, w_k all scored weights that unit k owns in the layers of its group.

    Wen et al. (SSL), eq. 3-4, with DepGraph's coupled weights as the groups. The subgradient of a unit that is
    all zero is 0. Not scored, so not penalised: position embeddings, class tokens, layer scales. torch-pruning 1.6.1
    penalises batch norms only (`bn-group-lasso`). What PruningBench runs beside `magnitude-l2` isn't public.
    """

    strength: float = 5e-4
    _groups: tuple[GroupWeights, ...] = field(default=(), init=False, repr=False)

    version = 2
    capturable = True
    paper = "Wen et al., Learning structured sparsity in deep neural networks, NeurIPS 2016, eq. 3-4"

    def bind(self, model: nn.Module, groups: Groups) -> None:
        """Collect the weights of every group."""
        self._groups = bind_groups(model, groups)

    def add_gradients(self) -> None:
        """grad += strength * w / ||w_k||."""
        for group in self._groups:
            norms = group.squares().sqrt()
            group.pull(self.strength * reciprocal(norms))


def reciprocal(norms: Tensor) -> Tensor:
    """1 / norm, and 0 where the norm is 0."""
    return torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
