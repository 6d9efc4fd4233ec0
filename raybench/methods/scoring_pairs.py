"""Raw scores of criteria that compare filters pair by pair: a layer's distances follow what goes, none is made anew."""

from __future__ import annotations

import numpy as np
import torch

from raybench.methods.layers import CONVOLUTIONS, view
from raybench.methods.pairs import FilterDistances
from raybench.methods.protocols import has_filters
from raybench.methods.scoring_asked import AskedAgain
from raybench.pipeline.records import Member


class RunningPairs(AskedAgain):
    """Of a `PairwiseImportance`. Grouped convolutions, whose filters see different inputs, are compared anew."""

    def start(self) -> None:
        """Every unit lives."""
        self._distances: dict[str, FilterDistances] = {}
        super().start()

    def _ask(self, member: Member) -> np.ndarray | None:
        if not has_filters(member) or _grouped(self.model.get_submodule(member.layer), member):
            return super()._ask(member)
        if member.layer not in self._distances:
            self._distances[member.layer] = FilterDistances(view(self.model, member).weight)
        left = (self._left(member.layer, side) for side in ("out", "in"))
        return self._distances[member.layer].sums(self.criterion.pair_value, *left).cpu().numpy()

    def _left(self, layer: str, side: str) -> torch.Tensor | None:
        places = self._places.get((layer, side))
        return None if places is None else torch.from_numpy(places)


def _grouped(module: torch.nn.Module, member: Member) -> bool:
    return isinstance(module, CONVOLUTIONS) and member.kind != "depthwise" and module.groups > 1
