"""What the token counts of a plain vision transformer depend on, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

Place = Literal["block", "mlp"]  # what tokens are removed in front of: a block, or the MLP in it
Counts = tuple[tuple[int, int], ...]  # for each block: tokens that its attention and its MLP see, prefix included


@dataclass(frozen=True)
class Shape:
    """Sizes of a plain vision transformer for one image size.

    Attributes:
        patches: tokens that stand for patches of the image; these may go.
        prefix: class, distillation and register tokens in front of them, which stay.
        width: channels of a token.
        head_dims: width of one attention head, for each block.
    """

    patches: int
    prefix: int
    width: int
    head_dims: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.head_dims)

    def left(self, removed: Sequence[int]) -> tuple[int, ...]:
        """Patches that are left after each block, where the blocks remove `removed` of them."""
        return tuple(self.patches - gone for gone in accumulate(removed))

    def before(self, removed: Sequence[int]) -> tuple[int, ...]:
        """Patches that reach each block."""
        return (self.patches, *self.left(removed))[: self.depth]

    def counts(self, removed: Sequence[int], place: Place) -> Counts:
        """Tokens that each block's attention and MLP see.

        Example:
            >>> Shape(patches=16, prefix=1, width=8, head_dims=(4, 4)).counts((6, 2), "mlp")
            ((17, 11), (11, 9))
        """
        into, out = self.before(removed), self.left(removed)
        seen = zip(into if place == "mlp" else out, out, strict=True)
        return tuple((self.prefix + attention, self.prefix + mlp) for attention, mlp in seen)
