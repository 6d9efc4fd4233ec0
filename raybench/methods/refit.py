"""Least squares that make up for pruned channels: what is left of a layer is fitted to what the whole layer gave."""

from __future__ import annotations

import torch
from torch import Tensor

from raybench.methods.contributions import contribution_gram
from raybench.methods.protocols import Reading

RIDGE = 1e-9  # of the mean square of a column: far below what float32 activations can tell


def least_squares(reading: Reading) -> Tensor:
    """(g, c, k, o) argmin_W ||Y - X W||^2 (He et al., ICCV 2017, eq. 4), the nearest to the old weight if several are.

    Every output has its own coefficients for every kept channel and tap.
    """
    g, c, k, o = reading.weight.shape
    inputs, old = reading.inputs.flatten(2), reading.weight.flatten(1, 2)  # columns: channels x taps
    rest = reading.target - inputs @ old
    new = [w + nearest_solution(x, y) for x, y, w in zip(inputs, rest, old, strict=True)]
    return torch.stack(new).view(g, c, k, o)


def channel_scales(reading: Reading) -> Tensor:
    """(g, c, k, o) the old weight with one factor a kept channel: argmin_s sum_i (y_i - sum_j s_j x_ij)^2
    (Luo et al., ICCV 2017, eq. 7), x_ij what channel j gives to output i; the nearest to all ones if several are."""
    scaled = [_scaled(*group) for group in zip(reading.inputs, reading.weight, reading.target, strict=True)]
    return torch.stack(scaled)


def _scaled(inputs: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """One convolution group's weight (c, k, o), from its inputs (points, c, k) and targets (points, o)."""
    gram = contribution_gram(inputs.permute(2, 0, 1), weight.mT)  # <x_i, x_j>
    with_target = (torch.einsum("pck,po->cko", inputs, target) * weight).sum((1, 2))  # <x_j, y>
    change = solved(gram, (with_target - gram.sum(1)).unsqueeze(1))
    return weight * (1 + change).unsqueeze(2)


def nearest_solution(matrix: Tensor, target: Tensor) -> Tensor:
    """(columns, o) solution of least norm of min ||target - matrix D||^2, matrix (points, columns), by Cholesky.

    Whichever of the two Gram matrices is smaller is factored, with a vanishing ridge.
    """
    points, columns = matrix.shape
    if points < columns:
        return matrix.mT @ solved(matrix @ matrix.mT, target)
    return solved(matrix.mT @ matrix, matrix.mT @ target)


def solved(gram: Tensor, right: Tensor) -> Tensor:
    """gram^-1 right, (n, o), from a positive semidefinite (n, n); 0 in directions in which gram is.

    Iterated Tikhonov: solving for what the ridge left over squares its bias, and a channel that hardly ever fires
    still can't get a huge weight.
    """
    ridge = RIDGE * gram.diagonal().mean()
    if not ridge > 0:
        return torch.zeros_like(right)
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram)).to(gram))
    first = torch.cholesky_solve(right, factor)
    return first + torch.cholesky_solve(right - gram @ first, factor)
