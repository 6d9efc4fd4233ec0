"""MACs of a plain vision transformer as an exact function of the tokens that each block sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.cost import count_macs, params_of
from raybench.tokens.plain import shape_of
from raybench.tokens.reducer import TokenReducer
from raybench.tokens.shape import Counts, Shape


@dataclass(frozen=True)
class TokenCost:
    """What each block costs for its tokens: MACs per token of its layers, and per pair of tokens of its attention."""

    shape: Shape
    attention: tuple[int, ...]  # MACs of queries, keys, values and the projection, per token
    pairs: tuple[int, ...]  # MACs of queries times keys and attention times values, per pair of tokens
    mlp: tuple[int, ...]  # MACs of the MLP, per token
    outside: int  # MACs of patch embedding and classifier, which see all or one
    macs_base: int
    params_base: int

    @classmethod
    def measure(cls, model: nn.Module, example: Tensor) -> TokenCost:
        """Read the sizes of `model` from its layers, and check them against a counted forward pass.

        Args:
            model: a plain vision transformer; it isn't changed.
            example: one image, (1, channels, height, width).

        Raises:
            NotSupported: it is no plain vision transformer, or multiplies more in its blocks than its layers do.
        """
        shape, vit = shape_of(model, example), _blocks(model)
        attention = tuple(_linear(block.attn) for block in vit)
        pairs = tuple(2 * block.attn.num_heads * block.attn.head_dim for block in vit)
        mlp = tuple(_linear(block.mlp) for block in vit)
        macs_base = count_macs(model, example)
        whole = cls(shape, attention, pairs, mlp, 0, macs_base, params_of(model))
        outside = macs_base - whole._blocks_macs(shape.counts((0,) * shape.depth, "mlp"))
        if outside < 0 or count_macs(nn.Sequential(*vit), _tokens(shape, example)) != macs_base - outside:
            raise NotSupported(f"can't predict the cost of {type(model).__name__}: its blocks multiply otherwise")
        return cls(shape, attention, pairs, mlp, outside, macs_base, whole.params_base)

    def macs(self, reducer: TokenReducer, removed: Sequence[int]) -> int:
        """MACs per image where each block removes so many tokens, with what the method itself multiplies."""
        own = reducer.extra_macs(self.shape, tuple(removed))
        return self.outside + self._blocks_macs(self.shape.counts(removed, reducer.place)) + own

    def _blocks_macs(self, counts: Counts) -> int:
        return sum(
            seen * (self.attention[i] + seen * self.pairs[i]) + after * self.mlp[i]
            for i, (seen, after) in enumerate(counts)
        )


def _blocks(model: nn.Module) -> list[Any]:
    vit: Any = model
    return list(vit.blocks)


def _linear(part: nn.Module) -> int:
    """MACs per token of the linear layers in `part`."""
    return sum(one.in_features * one.out_features for one in part.modules() if isinstance(one, nn.Linear))


def _tokens(shape: Shape, example: Tensor) -> Tensor:
    """Tokens as they reach the first block."""
    return example.new_zeros(1, shape.prefix + shape.patches, shape.width)
