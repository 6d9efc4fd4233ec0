"""How much of a matrix's nuclear norm each of its rows carries alone, for all rows from one eigendecomposition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# sum of sqrt(eigenvalues) as an integral over t, by the trapezoidal rule in log t; eigenvalues are scaled to at most 1.
# The integrand is analytic around the axis, so steps of 1 leave an error of exp(-2 pi^2), and the ends one of 1e-9.
NODES = torch.arange(-41.0, 42.0, dtype=torch.float64).exp()
AT_ONCE = 1 << 22  # numbers of one temporary


def independence(maps: Tensor) -> Tensor:
    """Nuclear norm of each matrix minus that of the same matrix with one row zeroed, for every row.

    With eigenvalues w of A A^T and shares r of row j in its eigenvectors, the row's score is

        1/pi * integral over t of sqrt(t) * N(t) / D(t),  N = sum r w / (w + t)^2,  D = sum r t / (w + t)

    since taking row j away is a rank-one change of A^T A (Sherman and Morrison) and
    sqrt(w) = 1/pi * integral of sqrt(t)^-1 * w / (w + t). No eigenvalue is computed twice.

    Args:
        maps: (matrices, rows, columns), e.g. (images, channels, height * width).

    Returns:
        (matrices, rows) float64; errors are about 1e-8 of a matrix's largest singular value.
    """
    rows, columns = maps.shape[1:]
    images = max(1, AT_ONCE // (rows * max(columns, len(NODES), min(rows, columns))))
    return torch.cat([_scores(part.double()) for part in maps.split(images)])


def _scores(maps: Tensor) -> Tensor:
    values, shares, rest = _spectrum(maps)
    largest = values.amax(1).clamp(min=torch.finfo(torch.float64).tiny)
    values = values / largest[:, None]
    nodes = NODES.to(values.device)
    near = 1 / (values[:, :, None] + nodes)  # (matrices, eigenvalues, nodes)
    above = shares @ (values[:, :, None] * near.square())
    below = shares @ (near * nodes) + rest[:, :, None]
    return (above / below * nodes**1.5).sum(2) / math.pi * largest.sqrt()[:, None]


def _spectrum(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of A A^T: (eigenvalues, each row's shares in their eigenvectors, its share in what has none here, so 0)."""
    if maps.shape[1] <= maps.shape[2]:
        values, vectors = torch.linalg.eigh(maps @ maps.mT)
        return values.clamp(min=0), vectors.square(), torch.zeros_like(vectors[:, :, 0])
    values, vectors = torch.linalg.eigh(maps.mT @ maps)
    values = values.clamp(min=0)
    least = values.amax(1, keepdim=True) * torch.finfo(torch.float64).eps * maps.shape[1]
    shares = torch.where(values > least, 1 / values, 0)[:, None] * (maps @ vectors).square()
    return values, shares, (1 - shares.sum(2)).clamp(min=0)
