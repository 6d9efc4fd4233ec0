"""Least squares that make up for pruned channels: what is left of a layer is fitted to what the whole layer gave.

With about as many unknowns as points plain least squares follows the sampled points and ruins everything between
them (a classifier gets one point an image). So a quarter of the points is held out, and says how strong a ridge
towards the old weight is best, or that no fit beats the old weight; the fit with that ridge then uses all points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raybench.methods.contributions import contribution_gram
from raybench.methods.protocols import Reading

RIDGES = (1e-9, 1e-6, 1e-4, 1e-2, 1e-1, 1.0)  # of the mean square of a column; the first is plain least squares
BLOCKS = 16  # runs of points, image after image: every fourth is held out, and so are whole images if there are enough

Fit = Callable[[Tensor, Tensor, Tensor], Callable[[float], Tensor]]  # inputs, weight, target -> ridge -> new weight


def least_squares(reading: Reading) -> Tensor:
    """(g, c, k, o) argmin_W ||Y - X W||^2 (He et al., ICCV 2017, eq. 4), the nearest to the old weight if several are.

    Every output has its own coefficients for every kept channel and tap.
    """
    return _each_group(reading, _free)


def channel_scales(reading: Reading) -> Tensor:
    """(g, c, k, o) the old weight with one factor a kept channel: argmin_s sum_i (y_i - sum_j s_j x_ij)^2
    (Luo et al., ICCV 2017, eq. 7), x_ij what channel j gives to output i; the nearest to all ones if several are."""
    return _each_group(reading, _scaled)


def held_out(points: int) -> Tensor:
    """(points,) bool, about a quarter of them; none of fewer than four."""
    blocks = min(BLOCKS, points)
    return torch.arange(points) * blocks // max(points, 1) % 4 == 3


def _each_group(reading: Reading, fit: Fit) -> Tensor:
    groups = zip(reading.inputs, reading.weight, reading.target, strict=True)
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
    """Least squares for every weight. Whichever of the two Gram matrices is smaller is factored."""
    matrix, old = inputs.flatten(1), weight.flatten(0, 1)  # columns: channels x taps
    points, columns = matrix.shape
    rest = target - matrix @ old
    if points < columns:
        gram = matrix @ matrix.mT
        share = points / columns  # both Gram matrices have the same trace: the ridge is that of the other one
        return lambda ridge: weight + (matrix.mT @ solved(gram, rest, ridge * share)).view_as(weight)
    gram, right = matrix.mT @ matrix, matrix.mT @ rest
    return lambda ridge: weight + solved(gram, right, ridge).view_as(weight)


def _scaled(inputs: Tensor, weight: Tensor, target: Tensor) -> Callable[[float], Tensor]:
    """Least squares for one factor a channel."""
    gram = contribution_gram(inputs.permute(2, 0, 1), weight.mT)  # <x_i, x_j>
    with_target = (torch.einsum("pck,po->cko", inputs, target) * weight).sum((1, 2))  # <x_j, y>
    right = (with_target - gram.sum(1)).unsqueeze(1)
    return lambda ridge: weight * (1 + solved(gram, right, ridge)).unsqueeze(2)


def solved(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """gram^-1 right, (n, o), from a positive semidefinite (n, n); 0 in directions in which gram is.

    `ridge` is relative to the mean of the diagonal. Iterated Tikhonov: solving for what the ridge left over squares
    its bias, and a channel that hardly ever fires still can't get a huge weight.
    """
    ridge = ridge * float(gram.diagonal().mean()) if len(gram) else 0.0
    if not ridge > 0:
        return torch.zeros_like(right)
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram)).to(gram))
    first = torch.cholesky_solve(right, factor)
    return first + torch.cholesky_solve(right - gram @ first, factor)
