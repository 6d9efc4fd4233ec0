"""Attention in which dropped tokens are masked, with gradients that say what keeping one more token would change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def shared_softmax(logits: Tensor, share: Tensor) -> Tensor:
    """Softmax over the tokens that are kept, and over each token itself: DynamicViT's attention masking.

    The gradient of a kept token's share is the plain one. A dropped token may have a far larger logit than all kept
    ones, and the plain gradient then grows without bound, though its attention would be 1 at most. So the gradient of
    a dropped token is the attention that it would have, times what that changes.

    Args:
        logits: (n, heads, tokens, tokens).
        share: (n, tokens), 1 for tokens that are kept and 0 for others.

    Returns:
        Like `logits`: exp(logit) G / sum(exp(logit) G) with G[i, j] = share[j], and 1 on the diagonal.
    """
    own = torch.eye(share.shape[1], dtype=share.dtype, device=share.device)
    seen = share[:, None, None, :] * (1 - own) + own
    exact = logits if logits.dtype == torch.float64 else logits.float()
    found: Tensor = _Masked.apply(exact, seen)
    return found.to(logits.dtype)


class _Masked(torch.autograd.Function):
    """Softmax over the keys that are seen. Its sums need no small number beside them: each token sees itself."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, seen: Tensor) -> Tensor:
        gone = seen == 0
        total = logits.masked_fill(gone, -torch.inf).logsumexp(-1, keepdim=True)
        would = torch.where(gone, (logits - total).sigmoid(), (logits - total).exp())  # if the key were seen
        attention = would.masked_fill(gone, 0.0)
        ctx.save_for_backward(attention, would)
        ctx.kind = seen.dtype
        return attention

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        attention, would = ctx.saved_tensors
        change = gradient - (attention * gradient).sum(-1, keepdim=True)
        return attention * change, (would * change).sum(1, keepdim=True).to(ctx.kind)
