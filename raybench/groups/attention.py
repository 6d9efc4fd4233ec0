"""timm's attention modules: finding and refitting them, and running a network unfused in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard

import torch
from torch import nn

from raybench.groups.restored import modes_restored


class Attention(Protocol):
    """A self-attention module laid out as timm's `Attention` and Swin's `WindowAttention` are."""

    qkv: nn.Linear
    proj: nn.Linear
    num_heads: int
    scale: float


def attentions(model: nn.Module) -> dict[str, Attention]:
    """Find every self-attention laid out as timm does. Returns qualified name -> module."""
    return {name: module for name, module in model.named_modules() if is_attention(module)}


def is_attention(module: nn.Module) -> TypeGuard[Attention]:
    """Whether `module` has Linear layers `qkv` and `proj`, an int `num_heads` and a number `scale`."""
    return (
        isinstance(getattr(module, "scale", None), (int, float))
        and isinstance(getattr(module, "qkv", None), nn.Linear)
        and isinstance(getattr(module, "proj", None), nn.Linear)
        and isinstance(getattr(module, "num_heads", None), int)
    )


def normalises_heads(attention: Attention) -> bool:
    """Whether `attention` normalises queries and keys over a head's width with trained weights (timm's `qk_norm`)."""
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return any(isinstance(norm, nn.Module) and next(norm.parameters(), None) is not None for norm in norms)


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Run `model` in eval mode with fused attention off; modes and switches are restored afterwards.

    Fused kernels hide their matrix products from FLOP counters and their structure from autograd's graph.
    """
    modules: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "fused_attn", None), bool)]
    fused = [(module, module.fused_attn) for module in modules]
    with eval_mode(model):
        try:
            for module, _ in fused:
                module.fused_attn = False
            yield
        finally:
            for module, flag in fused:
                module.fused_attn = flag


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside, `model` is in eval mode and torch's fast path for transformer layers is off; both are restored.

    The fast path hides the operations inside a layer. Only flags are set: no `train` method of the model is called.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    with modes_restored(model):
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            for module in model.modules():
                module.training = False
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def refit(attention: Attention, num_heads: int, head_dim: int) -> None:
    """Set the attributes of an attention to its cut weights, in place, and rescale the query weights.

    Fused attention divides by the root of its current head width, the unfused path multiplies by `scale`. With the
    ratio of the old and the new width folded into the query weights both paths compute the uncut attention's scaling.
    """
    old = 1 / attention.scale**2  # the head width that the current weights were scaled for
    width = num_heads * head_dim
    with torch.no_grad():
        attention.qkv.weight[:width] *= (head_dim / old) ** 0.5
        if attention.qkv.bias is not None:
            attention.qkv.bias[:width] *= (head_dim / old) ** 0.5
    attention.num_heads, attention.scale = num_heads, head_dim**-0.5
    for name, value in (("head_dim", head_dim), ("attn_dim", width)):
        if hasattr(attention, name):
            setattr(attention, name, value)
