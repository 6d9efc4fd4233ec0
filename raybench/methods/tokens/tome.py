"""Token merging (ToMe): each block merges the pairs of tokens whose keys are most alike. No training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.registry import token
from raybench.tokens.attention import Seen
from raybench.tokens.reducer import Stages, TokenReducer
from raybench.tokens.shape import Shape


@token("tome")
@dataclass(frozen=True)
class TokenMerging(TokenReducer):
    """Between attention and MLP, r tokens are merged into their most similar ones, as means weighted by size.

    Bolya et al., section 3: tokens alternate between sets A and B; each token of A is paired with the token of B whose
    key (the mean over heads) has the largest cosine; the r best pairs are merged. Attention is proportional: the logit
    of a key gains log(size). Class, distillation and register tokens stand in neither set. Every block merges the same
    r, but for what meets the asked speed-up exactly, and at most half of its tokens.

    Attributes:
        train: "none", as published for ready networks; "finetune" trains the reduced network by the recipe.
    """

    train: Literal["none", "finetune"] = "none"
    version = 2
    place = "mlp"
    needs = "nothing"
    paper = "Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, section 3"

    def most(self, shape: Shape, patches: int) -> int:
        """Half of the tokens: so many are in set A, and have a partner."""
        return patches // 2

    def removed(self, shape: Shape, amount: float) -> tuple[int, ...]:
        """The same count in each block, up to half of all patches; as many as a block has to merge."""
        rate = amount * shape.patches / 2
        left, counts = shape.patches, []
        for block in range(shape.depth):
            wanted = int(rate * (block + 1)) - int(rate * block)
            counts.append(min(wanted, self.most(shape, left)))
            left -= counts[-1]
        return tuple(counts)

    def extra_macs(self, shape: Shape, removed: tuple[int, ...]) -> int:
        """Cosines of all tokens of A with all of B, in blocks that merge."""
        total = 0
        for gone, patches, width in zip(removed, shape.before(removed), shape.head_dims, strict=True):
            first = (patches + 1 - shape.prefix % 2) // 2  # A starts at an even position
            total += first * (patches - first) * width if gone else 0
        return total

    def attach(self, shape: Shape, removed: tuple[int, ...]) -> Stages:
        """Merging of `removed` tokens in each block."""
        return _Merging(shape.prefix, removed)


class _Merging(Stages):
    """The state is the size of each token, (n, tokens): how many patches it stands for."""

    def __init__(self, prefix: int, removed: tuple[int, ...]) -> None:
        super().__init__()
        self.prefix, self.removed = prefix, removed

    def start(self, tokens: Tensor) -> Tensor | None:
        """No sizes: all are 1."""
        return None

    def bias(self, flow: Tensor | None) -> Tensor | None:
        """Log of the sizes."""
        return None if flow is None else flow.log()

    def before_mlp(self, block: int, tokens: Tensor, seen: Seen, flow: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Merge the most similar pairs."""
        gone = self.removed[block]
        if not gone:
            return tokens, flow
        size = torch.ones_like(tokens[..., 0]) if flow is None else flow
        return merge(tokens, size, seen.keys.mean(1), gone, self.prefix)

    def weights(self, flow: Tensor | None) -> Tensor | None:
        """The sizes: a pooled mean is that of the patches."""
        return flow


def merge(tokens: Tensor, size: Tensor, keys: Tensor, gone: int, prefix: int) -> tuple[Tensor, Tensor]:
    """Merge `gone` pairs of tokens.

    Args:
        tokens: (n, tokens, channels).
        size: (n, tokens), how many patches each stands for.
        keys: (n, tokens, width), by whose cosines tokens are paired.
        gone: how many tokens of A are merged.
        prefix: tokens at the start that stay.

    Returns:
        The prefix, the tokens of A that are left, and those of B: (n, tokens - gone, channels); and their sizes.
    """
    _, count, channels = tokens.shape
    first, second = slice(prefix + prefix % 2, count, 2), slice(prefix + 1 - prefix % 2, count, 2)  # A, B
    keys = F.normalize(keys, dim=-1)
    cosines, partner = (keys[:, first] @ keys[:, second].transpose(1, 2)).max(-1)
    order = cosines.topk(cosines.shape[1], dim=1).indices
    merged, stays = order[:, :gone], order[:, gone:].sort(1).values
    target = partner.gather(1, merged)
    whole = torch.cat([tokens * size[..., None].to(tokens.dtype), size[..., None].to(tokens.dtype)], 2)
    ours, theirs = whole[:, first], whole[:, second]
    going = ours.gather(1, merged[..., None].expand(-1, -1, channels + 1))
    theirs = theirs.scatter_add(1, target[..., None].expand(-1, -1, channels + 1), going)
    staying = ours.gather(1, stays[..., None].expand(-1, -1, channels + 1))
    out = torch.cat([whole[:, :prefix], staying, theirs], 1)
    new = out[..., channels]
    return out[..., :channels] / new[..., None], new.to(size.dtype)
