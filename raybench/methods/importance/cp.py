"""CP, channel pruning by LASSO: keeps the channels that are needed to reproduce the next layer's output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from raybench.methods.contributions import ChannelSelection
from raybench.methods.lasso import entry_penalties
from raybench.methods.protocols import RefitProblem
from raybench.methods.refit import least_squares
from raybench.registry import importance


@importance("cp", limits={"points": (1, None)})
@dataclass(frozen=True)
class ChannelPruning(ChannelSelection):
    """The largest LASSO penalty that still keeps a channel, as a share of the output's energy.

    He et al., eq. 2: min_b ||Y - sum_j b_j x_j||^2 / 2 + lambda ||b||_1, x_j = X_j W_j^T the contribution of input
    channel j to the output Y. The authors raise lambda until the wanted number of channels is left; the exact LASSO
    path gives the order for every number at once. Where several layers read a channel their scores are averaged.
    After the cut the weights of every layer that reads pruned channels are refitted by least squares (eq. 4, from the
    pruned network's inputs to the uncut one's outputs, eq. 5); `reconstruct: false` leaves them unchanged.
    """

    points: int = 10
    reconstruct: bool = True

    needs = "activations"
    reconstructs = True
    version = 3
    paper = "He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017, eq. 1-5"

    def select(self, gram: np.ndarray) -> np.ndarray:
        """(n,) entry penalties in [0, 1]; 0 for a channel that the others reproduce exactly."""
        return entry_penalties(gram)

    def refit(self, problem: RefitProblem) -> Tensor:
        """argmin_W ||Y - X W||^2."""
        return least_squares(problem)
