"""What raybench knows of timm's attention modules, and of networks run "plainly": unfused, in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """Qualified name -> every self-attention laid out as timm does: `qkv` and `proj` are Linear, `num_heads` an int."""
    return {name: module for name, module in model.named_modules() if is_attention(module)}


def is_attention(module: nn.Module) -> bool:
    """Whether `module` is laid out as timm's `Attention` and Swin's `WindowAttention` are."""
    return (
        isinstance(getattr(module, "qkv", None), nn.Linear)
        and isinstance(getattr(module, "proj", None), nn.Linear)
        and isinstance(getattr(module, "num_heads", None), int)
    )


def normalises_heads(attention: nn.Module) -> bool:
    """Whether `attention` normalises queries and keys over a head's width (timm's `qk_norm`), with weights for it."""
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return any(isinstance(norm, nn.Module) and next(norm.parameters(), None) is not None for norm in norms)


@contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Run `model` in eval mode with every fused attention off; mode and switches are as before afterwards.

    Fused kernels hide their matrix products from FLOP counters and their structure from autograd's graph.
    """
    modes = {module: module.training for module in model.modules()}
    fused = {module: module.fused_attn for module in modes if isinstance(getattr(module, "fused_attn", None), bool)}
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module in modes:
            module.training = False
        for module in fused:
            module.fused_attn = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes.items():
            module.training = training
        for module, flag in fused.items():
            module.fused_attn = flag


def refit(attention: nn.Module, num_heads: int, head_dim: int) -> None:
    """Make the attributes of an attention agree with its cut weights, in place.

    Fused attention divides by the root of the head width that it sees, the unfused path multiplies by `scale`.
    Folding the ratio of the two widths into the query weights keeps the function that the uncut width defined
    and makes both paths agree.
    """
    old = 1 / attention.scale**2  # the head width that the current weights were scaled for
    width = num_heads * head_dim
    with torch.no_grad():
        attention.qkv.weight[:width] *= (head_dim / old) ** 0.5
        if attention.qkv.bias is not None:
            attention.qkv.bias[:width] *= (head_dim / old) ** 0.5
    attention.num_heads, attention.scale = num_heads, head_dim**-0.5
    if hasattr(attention, "head_dim"):
        attention.head_dim = head_dim
    if hasattr(attention, "attn_dim"):
        attention.attn_dim = width
