"""bn-group-lasso: the group lasso on batch-norm scales alone, as torch-pruning and PruningBench have it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from raybench.errors import NotSupported
from raybench.groups.records import Groups
from raybench.methods.penalty import GroupWeights, bind_groups, is_batch_norm
from raybench.methods.protocols import Regularizer
from raybench.registry import regularizer

EPSILON = 1e-9  # added to the mean square, as in torch-pruning: the gradient stays finite where all scales are 0


@regularizer("bn-group-lasso", limits={"strength": (0, None)})
@dataclass
class BNGroupLasso(Regularizer):
    """strength * sum_k n sqrt(mean_j gamma_jk^2 + 1e-9), gamma_jk unit k's scale in the j-th of its n batch norms.

    torch-pruning 1.6.1's `BNScalePruner(group_lasso=True)`, the `group_slim` of its script, which PruningBench lists
    beside `bn-scale`. But for the 1e-9 it is strength * sqrt(n) * ||gamma_k||, the group lasso with the usual weight
    for a group's size. The library fails on groups without a batch norm; here they are left alone.
    """

    strength: float = 1e-5
    _groups: tuple[GroupWeights, ...] = field(default=(), init=False, repr=False)

    requires = "batch-norm"
    capturable = True
    paper = "Yuan and Lin, Model selection and estimation in regression with grouped variables, JRSS B 2006, eq. 2.1"

    def bind(self, model: nn.Module, groups: Groups) -> None:
        """Collect the batch norms of every group. NotSupported for a model whose groups contain none."""
        self._groups = bind_groups(model, groups, counted=is_batch_norm)
        if not self._groups:
            raise NotSupported("bn-group-lasso needs batch normalisation; no prunable channel of this model has it")

    def add_gradients(self) -> None:
        """grad += strength * gamma / sqrt(mean over the group's batch norms of gamma^2 + 1e-9)."""
        for group in self._groups:
            group.pull(self.strength * (group.mean_squares() + EPSILON).rsqrt())
