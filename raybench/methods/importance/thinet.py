"""ThiNet: greedily removes the channels whose removal changes the next layer's output least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from raybench.methods.contributions import ChannelSelection
from raybench.methods.protocols import RefitProblem
from raybench.methods.refit import channel_scales
from raybench.registry import importance

STEP = 2.0**-20  # relative growth of the score per removal where the error itself falls


@importance("thinet", limits={"points": (1, None)})
@dataclass(frozen=True)
class ThiNet(ChannelSelection):
    """Reconstruction error at the moment of a channel's greedy removal, as a share of the output's energy.

    Luo et al., eq. 6: T = argmin sum_i (sum_{j in T} x_ij)^2, built up one channel at a time (algorithm 1); x_ij is
    the contribution of input channel j to output i (eq. 4). The authors stop at a given compression; here the greedy
    order continues to the last channel, and the score is the error after the removal, never below an earlier one. All
    output channels of each sampled (image, location) are used instead of one. Where several layers read a channel
    their scores are averaged. After the cut every layer that reads pruned channels has its kept channels rescaled by
    least squares, one factor each (eq. 7); `reconstruct: false` leaves them unchanged.
    """

    points: int = 10
    reconstruct: bool = True

    needs = "activations"
    reconstructs = True
    version = 3
    paper = "Luo et al., ThiNet, ICCV 2017, eq. 4-7, algorithm 1"

    def select(self, gram: np.ndarray) -> np.ndarray:
        """(n,) greedy errors, ascending in the order of removal."""
        return greedy_errors(gram)

    def refit(self, problem: RefitProblem) -> Tensor:
        """The weights times argmin_s ||y - sum_j s_j x_j||^2."""
        return channel_scales(problem)


def greedy_errors(gram: np.ndarray) -> np.ndarray:
    """(n,) error sum_{i,j in T} M_ij / sum_ij M_ij after each channel joins T; T grows by the cheapest channel.

    Ties go to the lower index. Scores never fall along the order of removal, so that sorting them gives that order.
    """
    n, energy = len(gram), float(gram.sum()) or 1.0
    cost = gram.diagonal().copy()  # of adding j to T: M_jj + 2 sum_{i in T} M_ij
    scores, error, last = np.zeros(n), 0.0, 0.0
    for _ in range(n):
        j = int(np.argmin(cost))
        error += cost[j]
        last = scores[j] = max(error / energy, last * (1 + STEP))
        cost += 2 * gram[j]
        cost[j] = np.inf
    return scores
