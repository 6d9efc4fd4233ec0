"""A network without some blocks, or on smaller images: what the whole one costs, and cuts counted from that."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from raybench.errors import counted
from raybench.groups.blocks import remove
from raybench.groups.cost import Cost, count_macs, params_of
from raybench.groups.library_count import library_counts
from raybench.groups.records import Groups
from raybench.selection.exact_end import ENOUGH
from raybench.selection.problem import Problem, Solution
from raybench.selection.records import Cut
from raybench.selection.select import cut_of


@dataclass(frozen=True)
class Shallow:
    """A network without some of its blocks, or on images of another size, and what the whole one costs."""

    whole: nn.Module
    model: nn.Module
    removed: tuple[str, ...]  # in the network's order
    blocks: int  # that could have been removed
    macs_base: int
    params_base: int
    macs_tp_base: int
    note: str | None = None  # why no block went
    own: Tensor | None = None  # an image of the whole network's size, where the other sees another size

    @classmethod
    def of(
        cls,
        whole: nn.Module,
        removed: Sequence[str],
        blocks: int,
        example: Tensor,
        note: str | None = None,
        own: Tensor | None = None,
    ) -> Shallow:
        """The network `whole`, which isn't changed, without the blocks `removed`, of `blocks` that could go.

        `own`: the image that the whole network is counted on, where it isn't `example`.
        """
        seen = example if own is None else own
        base_tp, _ = library_counts(whole, seen, Groups(()))
        macs, model = count_macs(whole, seen), without(whole, removed)
        return cls(whole, model, tuple(removed), blocks, macs, params_of(whole), base_tp, note, own)

    def of_whole(self, cut: Cut, target: float) -> Cut:
        """`cut`, made in the shallower network, with the whole network as its base, for an asked `target`."""
        gone = {*self.removed, *cut.blocks}  # a strategy may have removed more of those that were left
        return replace(
            cut, target=target, speedup=self.macs_base / cut.macs, macs_base=self.macs_base,
            params_base=self.params_base, macs_tp_base=self.macs_tp_base,
            blocks=tuple(name for name, _ in self.whole.named_modules() if name in gone),
            blocks_base=self.blocks or cut.blocks_base,
            reason="; ".join(filter(None, (cut.reason, self.note))) or None,
        )  # fmt: skip

    def uncut(
        self, groups: Groups, example: Tensor, strategy: str, round_to: int, target: float, got: float, unit: str = "x"
    ) -> Cut:
        """The cut that keeps every channel, as what went before comes to `got` of the asked `target`, or past it."""
        problem = Problem.of(groups, Cost.measure(self.model, example, groups), strategy, round_to)
        every = tuple(np.arange(size) for size in problem.sizes)
        cut = cut_of(problem, target, Solution(every, None, 0), *library_counts(self.model, example, groups))
        blocks = [f"the {counted(len(self.removed), 'removed block')}"] if self.removed or self.own is None else []
        size = [f"images of {example.shape[-1]} pixels"] if self.own is not None else []
        verb = "gives" if len(self.removed) == 1 and not size else "give"
        gone = f"{'blocks' if blocks else 'image size'}: {' and '.join(blocks + size)} alone {verb}"
        why = f"{gone} {got:.3g}{unit}"
        return self.of_whole(replace(cut, reason=why if abs(got / target - 1) > ENOUGH else None), target)


def without(model: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """A copy of `model` with `blocks` removed."""
    slim = copy.deepcopy(model)
    remove(slim, blocks)
    return slim
