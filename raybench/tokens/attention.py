"""timm's self-attention with a bias or a share for each token, and what token methods read of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.tokens.shares import shared_softmax


@dataclass(frozen=True)
class Seen:
    """What one attention computed on its way."""

    keys: Tensor  # (n, heads, tokens, head width)
    attention: Tensor | None  # (n, heads, queries, keys), after the softmax; None where nobody reads it


def attend(
    module: Any, tokens: Tensor, *, bias: Tensor | None = None, share: Tensor | None = None, wanted: bool = False
) -> tuple[Tensor, Seen]:
    """What `module`, timm's attention, computes of `tokens`.

    Args:
        module: a `timm.layers.Attention`.
        tokens: (n, tokens, channels), normalised.
        bias: (n, tokens), added to the logits of each key.
        share: (n, tokens) of 0 and 1: how much of each key the other tokens see; a token always sees itself.
        wanted: whether the attention itself is returned, for which no fused kernel is used.

    Returns:
        (n, tokens, channels), and what was computed on the way.
    """
    n, count, _ = tokens.shape
    qkv = module.qkv(tokens).reshape(n, count, 3, module.num_heads, module.head_dim).permute(2, 0, 3, 1, 4)
    queries, keys, values = qkv.unbind(0)
    queries, keys = module.q_norm(queries), module.k_norm(keys)
    mask = None if bias is None else bias[:, None, None, :].to(queries.dtype)
    attention = None
    exported = mask is not None and torch.compiler.is_exporting()  # ONNX takes the fused kernel without a mask only
    if module.fused_attn and share is None and not wanted and not exported:
        dropout = module.attn_drop.p if module.training else 0.0
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
    else:
        logits = (queries * module.scale) @ keys.transpose(-2, -1)
        logits = logits if mask is None else logits + mask
        attention = logits.softmax(-1) if share is None else shared_softmax(logits, share)
        out = module.attn_drop(attention) @ values
    out = out.transpose(1, 2).reshape(n, count, module.num_heads * module.head_dim)
    out = module.norm(out) if hasattr(module, "norm") else out
    if getattr(module, "gate", None) is not None:
        out = out * module.gate(tokens).sigmoid()
    return module.proj_drop(module.proj(out)), Seen(keys, attention if wanted else None)
