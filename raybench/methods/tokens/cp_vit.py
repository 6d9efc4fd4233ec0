"""CP-ViT: patches that little attention was paid to in all blocks so far go, more of them in later blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from raybench.registry import token
from raybench.tokens.attention import Seen
from raybench.tokens.reducer import Stages, TokenReducer
from raybench.tokens.select import best, kept_tokens
from raybench.tokens.shape import Shape

PUBLISHED_DEPTH = 12  # blocks of the networks that the schedule was published for
FIRST, LAST = 2, 8  # of them: the last block that cuts nothing, and the first that cuts the full share


@token("cp-vit")
@dataclass(frozen=True)
class CPViT(TokenReducer):
    """Between attention and MLP, the patches with the lowest cumulative attention go.

    Song et al., section 3: a patch's score gains, in each block, the sum over heads of the largest attention that any
    query pays to it; it is never reset. The share that is cut rises from block to block: of 12 blocks the first two
    cut nothing, then a sixth more each until the eighth, as in the public code, scaled to the depth of the network and
    to the asked speed-up. The public code only sets patches to zero, which saves nothing; here they are removed, so
    that they take no part in later attention. Heads aren't pruned.
    """

    train: Literal["finetune", "none"] = "finetune"
    version = 2
    place = "mlp"
    needs = "nothing"
    paper = "Song et al., CP-ViT: Cascade Vision Transformer Pruning via Progressive Sparsity Prediction, 2022"

    def removed(self, shape: Shape, amount: float) -> tuple[int, ...]:
        """Counts that leave the share 1 - amount * rise(block) of all patches, at least one."""
        counts, left = [], shape.patches
        for block in range(shape.depth):
            place = (block + 1) * PUBLISHED_DEPTH / shape.depth
            rise = min(max(place - FIRST, 0.0) / (LAST - FIRST), 1.0)
            kept = max(1, min(left, round(shape.patches * (1 - amount * rise))))
            counts.append(left - kept)
            left = kept
        return tuple(counts)

    def attach(self, shape: Shape, removed: tuple[int, ...]) -> Stages:
        """The scores, and the cuts of `removed` patches."""
        return _Cumulative(shape.prefix, shape.left(removed), removed)


class _Cumulative(Stages):
    """The state is the score of each patch, (n, patches)."""

    def __init__(self, prefix: int, left: tuple[int, ...], removed: tuple[int, ...]) -> None:
        super().__init__()
        self.prefix, self.left, self.removed = prefix, left, removed
        self.last = max((block for block, gone in enumerate(removed) if gone), default=-1)

    def reads_attention(self, block: int) -> bool:
        """Until the last cut."""
        return block <= self.last

    def before_mlp(self, block: int, tokens: Tensor, seen: Seen, flow: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Add up the attention, and cut."""
        if seen.attention is None:
            return tokens, flow
        gain = seen.attention.amax(2).sum(1)[:, self.prefix :]
        scores = gain if flow is None else flow + gain
        if not self.removed[block]:
            return tokens, scores
        count = self.left[block]
        return kept_tokens(tokens, scores, count, self.prefix), scores.gather(1, best(scores, count))
