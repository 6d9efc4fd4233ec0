"""Least squares after pruning: fits a layer's remaining weights to the uncut layer's outputs.

With about as many unknowns as points plain least squares overfits the sampled points (a classifier gets one point per
image). So the ridge towards the old weight is chosen on a quarter of the points, held out, where the old weight is
kept if no fit beats it; the fit with the chosen ridge then uses all points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raybench.methods.contributions import contribution_gram
from raybench.methods.protocols import RefitProblem

RIDGES = (1e-9, 1e-6, 1e-4, 1e-2, 1e-1, 1.0)  # times the mean square of a column; the first is plain least squares
BLOCKS = 16  # runs of consecutive points: every fourth is held out, so whole images where there are enough

Fit = Callable[[Tensor, Tensor, Tensor], Callable[[float], Tensor]]  # inputs, weight, target -> ridge -> new weight


def least_squares(problem: RefitProblem) -> Tensor:
    """(g, c, k, o) argmin_W ||Y - X W||^2 (He et al., ICCV 2017, eq. 4), the solution nearest to the old weight.

    Every output has its own coefficient for every kept channel and tap.
    """
    return _each_group(problem, _free)


def channel_scales(problem: RefitProblem) -> Tensor:
    """(g, c, k, o) the old weight times one factor s_j per kept channel (Luo et al., ICCV 2017, eq. 7).

    s = argmin sum_i (y_i - sum_j s_j x_ij)^2, x_ij the contribution of channel j to output i; the solution nearest to
    all ones.
    """
    return _each_group(problem, _scaled)


def held_out(points: int) -> Tensor:
    """(points,) bool, which points are held out: about a quarter; none of fewer than four."""
    blocks = min(BLOCKS, points)
    return torch.arange(points) * blocks // max(points, 1) % 4 == 3


def _each_group(problem: RefitProblem, fit: Fit) -> Tensor:
    groups = zip(problem.inputs, problem.weight, problem.target, strict=True)
    return torch.stack([_best(fit, *group) for group in groups])


def _best(fit: Fit, inputs: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """One convolution group's new weight (c, k, o), from its inputs (points, c, k) and targets (points, o)."""
    held = held_out(len(inputs)).to(inputs.device)
    seen, unseen = inputs[~held], inputs[held].flatten(1)

    def error(new: Tensor) -> float:
        return float((target[held] - unseen @ new.flatten(0, 1)).square().sum())

    solution = fit(seen, weight, target[~held])
    errors = {ridge: error(solution(ridge)) for ridge in RIDGES}
    best = min(errors, key=errors.__getitem__)
    return fit(inputs, weight, target)(best) if errors[best] < error(weight) else weight.clone()


def _free(inputs: Tensor, weight: Tensor, target: Tensor) -> Callable[[float], Tensor]:
    """Least squares for every weight, by factoring the smaller of the two Gram matrices."""
    matrix, old = inputs.flatten(1), weight.flatten(0, 1)  # columns: channels x taps
    points, columns = matrix.shape
    rest = target - matrix @ old
    if points < columns:
        gram = matrix @ matrix.mT
        share = points / columns  # both Gram matrices have the same trace: this makes the ridge that of the other one
        return lambda ridge: weight + (matrix.mT @ solved(gram, rest, ridge * share)).view_as(weight)
    gram, right = matrix.mT @ matrix, matrix.mT @ rest
    return lambda ridge: weight + solved(gram, right, ridge).view_as(weight)


def _scaled(inputs: Tensor, weight: Tensor, target: Tensor) -> Callable[[float], Tensor]:
    """Least squares for one factor per channel."""
    gram = contribution_gram(inputs.permute(2, 0, 1), weight.mT)  # <x_i, x_j>
    with_target = (torch.einsum("pck,po->cko", inputs, target) * weight).sum((1, 2))  # <x_j, y>
    right = (with_target - gram.sum(1)).unsqueeze(1)
    return lambda ridge: weight * (1 + solved(gram, right, ridge)).unsqueeze(2)


def solved(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """gram^-1 right, (n, o), from a positive semidefinite (n, n); 0 in the null space of `gram`.

    `ridge` is relative to the mean of the diagonal. Iterated Tikhonov: solving again for the residual squares the
    ridge's bias, and a channel that is rarely active still can't get a huge weight.
    """
    ridge = ridge * float(gram.diagonal().mean()) if len(gram) else 0.0
    if not ridge > 0:
        return torch.zeros_like(right)
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram)).to(gram))
    first = torch.cholesky_solve(right, factor)
    return first + torch.cholesky_solve(right - gram @ first, factor)
