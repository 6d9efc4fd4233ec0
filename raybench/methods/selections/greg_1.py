"""greg-1: weight decay that grows on the channels that were picked to go, until nothing is left of them."""

from __future__ import annotations

from dataclasses import dataclass

from raybench.methods.picked import PickedSelection
from raybench.registry import selection


@selection("greg-1", limits={"growth": (0, None), "interval": (1, None), "ceiling": (0, None)})
@dataclass
class GReg1(PickedSelection):
    """lambda / 2 * sum over the picked filters of ||w||^2; every `interval` steps lambda grows, up to `ceiling`.

    Wang et al., section 3.2 (GReg-1). The set is picked once, by L1 norm; then comes the penalty, which pushes its
    filters out while the others take over, and a time with the full penalty to stabilise. The authors pick the same
    share in each layer (strategy `local`) and add 10,000 steps on CIFAR to stabilise, 40,000 on ImageNet.
    `growing-reg`, as torch-pruning has it, chooses after training and penalises every unit by its weakness.
    """

    paper = "Wang et al., Neural pruning via growing regularization, ICLR 2021, section 3.2 (GReg-1)"

    def penalise(self, factor: float) -> None:
        """grad += lambda * w."""
        for layer in self._filters:
            layer.shrink(factor)
