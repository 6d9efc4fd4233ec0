"""Sums of squared small matrix products, the inner loop of per-sample squared gradients."""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 4  # up to this many positions the pairs of positions are multiplied out
CHUNK_BYTES = 256 * 2**20  # of per-sample products held at once on an accelerator
CACHED_BYTES = 2**20  # the same on a CPU


def squared_products(left: Tensor, right: Tensor, groups: int = 1) -> Tensor:
    """sum_n (left_n^T right_n)^2, elementwise square, per convolution group.

    left: (n * groups, t, a), right: (n * groups, t, b), samples outermost; result: (groups * a, b). With t the
    number of positions and P the pairs of positions (s <= t):

    - t = 1: (g x)^2 = g^2 x^2, one product of squares;
    - t <= 4: (sum_t g_t x_t)^2 = sum_P (2 or 1) (g_s g_t)(x_s x_t), one product over n and P;
    - else: products of as many samples as fit in the cache, squared there. On 2 cores the product of all samples, which
      writes n matrices to memory and reads them back, was 1.5 to 7 times slower; on an accelerator chunks are larger.
    """
    positions = left.shape[1]
    if groups > 1:
        return _by_group(left, right, groups)
    if positions == 1:
        return left[:, 0].square().t() @ right[:, 0].square()
    if positions <= FEW:
        first, second = torch.triu_indices(positions, positions, device=left.device)
        twice = torch.where(first == second, 1.0, 2.0).to(left).view(1, -1, 1)
        lefts, rights = left[:, first] * left[:, second] * twice, right[:, first] * right[:, second]
        return lefts.flatten(0, 1).t() @ rights.flatten(0, 1)
    return _in_cache(left, right) if left.device.type == "cpu" else _in_chunks(left, right)


def _in_cache(left: Tensor, right: Tensor) -> Tensor:
    total = left.new_zeros(left.shape[2], right.shape[2])
    step = max(1, CACHED_BYTES // (total.numel() * total.element_size()))
    for start in range(0, len(left), step):
        for product in torch.bmm(left[start : start + step].mT, right[start : start + step]):
            total.addcmul_(product, product)  # in order: the sums don't depend on `step`
    return total


def _in_chunks(left: Tensor, right: Tensor) -> Tensor:
    total = left.new_zeros(left.shape[2], right.shape[2])
    step = max(1, CHUNK_BYTES // (total.numel() * total.element_size()))
    for start in range(0, len(left), step):
        total += torch.bmm(left[start : start + step].mT, right[start : start + step]).square_().sum(0)
    return total


def _by_group(left: Tensor, right: Tensor, groups: int) -> Tensor:
    """For grouped and depthwise convolutions, whose products are small: one batched product for all."""
    products = torch.bmm(left.mT, right)  # (n * groups, a, b)
    return products.unflatten(0, (-1, groups)).square_().sum(0).flatten(0, 1)
