"""Batch norms whose statistics are those of a batch that several processes share, on any device.

torch's SyncBatchNorm needs GPUs and replaces modules, which would change names and kinds of layers. Here the function
that they all call, also those of timm, is replaced while a network trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

AddUp = Callable[[Tensor], None]  # replaces a tensor by its sum over all processes


@contextmanager
def shared_norms(add_up: AddUp) -> Iterator[None]:
    """Context in which `F.batch_norm` normalises, in training, by mean and variance over all processes."""
    plain = F.batch_norm

    def batch_norm(
        input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
        bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if not training:
            return plain(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return _normalised(input, running_mean, running_var, weight, bias, momentum, eps, add_up)

    F.batch_norm = batch_norm
    try:
        yield
    finally:
        F.batch_norm = plain


def _normalised(
    images: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None,
    bias: Tensor | None, momentum: float, eps: float, add_up: AddUp,
) -> Tensor:  # fmt: skip
    """Batch norm of (b, c, ...), b over all processes; updates the running statistics as torch does."""
    dims = [dim for dim in range(images.dim()) if dim != 1]
    along = [1, -1, *[1] * (images.dim() - 2)]
    values = images.float() if images.dtype in (torch.bfloat16, torch.float16) else images
    count = values.new_tensor([values.numel() // values.shape[1]])
    sums = _summed(torch.cat([values.sum(dims), count]), add_up)
    total = sums[-1].detach()
    mean = sums[:-1] / total
    centred = values - mean.view(along)
    variance = _summed(centred.square().sum(dims), add_up) / total
    normalised = centred * (variance + eps).rsqrt().view(along)
    if weight is not None:
        normalised = normalised * weight.view(along)
    if bias is not None:
        normalised = normalised + bias.view(along)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = variance * (total / (total - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return normalised.to(images.dtype)


def _summed(values: Tensor, add_up: AddUp) -> Tensor:
    found: Tensor = _Summed.apply(values, add_up)
    return found


class _Summed(torch.autograd.Function):
    """The sum over all processes. Each one's loss depends on it, so the gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, add_up: AddUp) -> Tensor:
        ctx.add_up = add_up
        summed = values.clone()
        add_up(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        ctx.add_up(summed)
        return summed, None
