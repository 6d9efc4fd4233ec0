"""Raw scores of criteria that compare filters pair by pair: distances are updated as channels are removed."""

from __future__ import annotations

import numpy as np
import torch

from raybench.groups.layer_types import CONVOLUTIONS
from raybench.groups.records import Member, Side
from raybench.methods.layers import view
from raybench.methods.pairs import FilterDistances
from raybench.methods.protocols import PairwiseImportance, has_filters
from raybench.scoring.recompute import Recomputed


class RunningPairs(Recomputed):
    """Raw scores of a `PairwiseImportance`. Grouped convolutions, whose filters differ in inputs, are recomputed."""

    criterion: PairwiseImportance

    def start(self) -> None:
        """Score every side of the whole network: no unit is removed."""
        self._distances: dict[str, FilterDistances] = {}
        super().start()

    def _compute(self, member: Member) -> np.ndarray | None:
        if not has_filters(member) or _grouped(self.model.get_submodule(member.layer), member):
            return super()._compute(member)
        if member.layer not in self._distances:
            self._distances[member.layer] = FilterDistances(view(self.model, member).weight)
        filters, inputs = self._left(member.layer, "out"), self._left(member.layer, "in")
        return self._distances[member.layer].sums(self.criterion.pair_value, filters, inputs).cpu().numpy()

    def _left(self, layer: str, side: Side) -> torch.Tensor | None:
        places = self._places.get((layer, side))
        return None if places is None else torch.from_numpy(places)


def _grouped(module: torch.nn.Module, member: Member) -> bool:
    return isinstance(module, CONVOLUTIONS) and member.kind != "depthwise" and module.groups > 1
