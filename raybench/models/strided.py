"""Keeps strided 1x1 convolutions with few channels in NCHW on a CPU: torch corrupts memory in their backward.

torch 2.14.1, x86-64: `m = torch.nn.Conv2d(9, 24, 1, 2)` on a channels-last batch of 112 x 112 pixels crashes within
eight backward passes, and so it does on an NCHW batch after `m.to(memory_format=torch.channels_last)`. Seen with
kernel 1, a stride above 1 and at most 15 input channels; not with 16 or more, with groups, or where input and weight
are NCHW.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raybench.groups.hooks import hooked

FEW = 16  # input channels from which on no crash was seen


@contextmanager
def strided_in_nchw(model: nn.Module) -> Iterator[None]:
    """Context for backward passes of `model`: convolutions that can hit the defect get NCHW inputs and weights."""
    with hooked(
        module.register_forward_pre_hook(_as_nchw)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and can_crash(module)
    ):
        yield


def can_crash(conv: nn.Conv2d) -> bool:
    """Whether torch can corrupt memory in the backward pass of `conv` on channels-last data, on a CPU."""
    return conv.in_channels < FEW and tuple(conv.kernel_size) == (1, 1) and max(conv.stride) > 1


def _as_nchw(conv: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The inputs of `conv` with the strides of NCHW; its weight gets them, too. Nothing changes on an accelerator."""
    assert isinstance(conv, nn.Conv2d)  # `strided_in_nchw` chose it
    if conv.weight.device.type != "cpu":
        return None
    if _is_channels_last(conv.weight):
        conv.weight.data = _copied(conv.weight.data)
    if inputs and isinstance(inputs[0], Tensor) and _is_channels_last(inputs[0]):
        return (_copied(inputs[0]), *inputs[1:])
    return None


def _is_channels_last(tensor: Tensor) -> bool:
    """Whether torch takes `tensor` for channels-last, by its strides; a weight (n, c, 1, 1) may have either."""
    return tensor.dim() == 4 and tensor.shape[1] > 1 and tensor.stride(1) == 1


def _copied(tensor: Tensor) -> Tensor:
    """A copy in NCHW; `contiguous` returns a tensor (n, c, 1, 1) as it is."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
