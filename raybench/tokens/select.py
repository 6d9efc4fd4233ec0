"""Keeps the best tokens of each image, in their order: as many in every image, so that batches stay rectangular."""

from __future__ import annotations

import torch
from torch import Tensor


def best(scores: Tensor, count: int) -> Tensor:
    """Positions of the `count` highest of `scores`, (n, patches), ascending: (n, count)."""
    return scores.topk(count, dim=1).indices.sort(1).values


def kept_tokens(tokens: Tensor, scores: Tensor, count: int, prefix: int) -> Tensor:
    """The prefix and the patches with the highest scores.

    Args:
        tokens: (n, prefix + patches, channels).
        scores: (n, patches).
        count: patches that stay.
        prefix: tokens at the start that stay.

    Returns:
        (n, prefix + count, channels), in the order in which they stood.

    Example:
        >>> tokens = torch.arange(4.0)[None, :, None]
        >>> kept_tokens(tokens, torch.tensor([[0.1, 0.9, 0.5]]), 2, prefix=1)[0, :, 0]
        tensor([0., 2., 3.])
    """
    if count == scores.shape[1]:
        return tokens
    places = best(scores, count)[..., None].expand(-1, -1, tokens.shape[2])
    return torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, places)], 1)
