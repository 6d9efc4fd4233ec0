"""tpp: filters that go are decorrelated from those that stay, so that the network trains as well without them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raybench.methods.picked import PickedFilters, PickedSelection
from raybench.registry import selection


@selection("tpp", limits={"growth": (0, None), "interval": (1, None), "ceiling": (0, None), "weight": (0, None)})
@dataclass
class TPP(PickedSelection):
    """lambda * (weight * sum over layers of mean G_ij^2 + 1/2 sum ||w||^2 + 1/2 sum (gamma^2 + beta^2)).

    G = W W^T is the Gram matrix of a layer's filters; its mean runs over all entries, of which those count that have a
    picked filter as row or column. The other two sums run over the picked filters and their batch norms. lambda grows
    by `growth` every `interval` steps to `ceiling`, as in greg-1. Depthwise and grouped convolutions, whose filters
    read different inputs, have no Gram matrix here.

    Wang and Fu, eq. 3 and 5; the mean, the weight of 1000 and the second sum are those of the authors' code, which also
    sets the picked filters to zero, one layer after the other, while it stabilises: here the cut does it at once.
    """

    weight: float = 1000.0

    paper = "Wang and Fu, Trainability preserving neural pruning, ICLR 2023, eq. 3 and 5"

    def penalise(self, factor: float) -> None:
        """The gradient of each sum; that of mean G_ij^2 is 4 / n^2 (G with the kept block at zero) W."""
        for layer in self._filters:
            layer.shrink(factor)
            if layer.dense and factor and self.weight:
                assert layer.weight.grad is not None  # every layer takes part in the loss
                layer.weight.grad.add_(decorrelation(layer), alpha=factor * self.weight)
        for norm in self._norms:
            norm.shrink(factor)


def decorrelation(layer: PickedFilters) -> Tensor:
    """The gradient of the mean of G_ij^2 over all entries, those between two kept filters at zero; like the weight."""
    rows = layer.layout.rows(layer.weight.detach())
    flat, kept = rows.flatten(1), 1 - layer.gone
    gram = flat @ flat.T * (1 - kept[:, None] * kept)
    return layer.layout.whole((4 / len(flat) ** 2 * (gram @ flat)).view_as(rows))
