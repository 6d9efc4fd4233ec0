"""bn-scale, Network Slimming's penalty: the L1 norm of batch-norm scales."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.errors import NotSupported
from raybench.groups.records import Groups
from raybench.methods.protocols import Regularizer
from raybench.registry import regularizer


@regularizer("bn-scale", limits={"strength": (0, None)})
@dataclass
class BNScaleRegularizer(Regularizer):
    """strength * sum |gamma| over the batch norms of prunable channels (Liu et al., eq. 1 with g(s) = |s|).

    The subgradient at 0 is 0. Paper: strength 1e-4 for VGG, 1e-5 for ResNet and DenseNet.
    """

    strength: float = 1e-5
    _scales: list[nn.Parameter] = field(default_factory=list, init=False, repr=False)

    requires = "batch-norm"
    capturable = True
    paper = "Liu et al., Learning efficient convolutional networks through network slimming, ICCV 2017, eq. 1"

    def bind(self, model: nn.Module, groups: Groups) -> None:
        """Collect the scales. NotSupported for a model whose groups contain no batch norm."""
        names = dict.fromkeys(m.layer for g in groups for m in g.members if m.kind == "norm")
        norms = [model.get_submodule(name) for name in names]
        self._scales = [n.weight for n in norms if isinstance(n, _BatchNorm) and n.weight is not None]
        if not self._scales:
            raise NotSupported("bn-scale needs batch normalisation; no prunable channel of this model has it")

    def add_gradients(self) -> None:
        """grad += strength * sign(gamma)."""
        pairs = [(scale.grad, scale.detach()) for scale in self._scales if scale.grad is not None]
        if pairs:
            gradients, scales = zip(*pairs, strict=True)
            torch._foreach_add_(gradients, torch._foreach_sign(scales), alpha=self.strength)
