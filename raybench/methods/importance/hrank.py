"""HRank: channels whose feature maps have low rank are removed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raybench.groups.records import Group, Member
from raybench.methods.maps import added, map_layers, maps_after_activation, mean_score
from raybench.methods.protocols import Importance, Layer
from raybench.methods.ranks import map_ranks
from raybench.registry import importance


@importance("hrank")
@dataclass(frozen=True)
class HRank(Importance):
    """Mean rank of a channel's feature map over the calibration images (Lin et al., section 3.2: sum_g Rank(o(g))).

    The authors take maps after the activation, since ranks hardly differ before it. These are the inputs of the next
    convolutions. For a group that no convolution reads (the last one before a classifier) the positive part of its
    norms' or convolutions' outputs is used instead. Groups without maps can't be scored.
    """

    needs = "activations"
    paper = "Lin et al., HRank: Filter pruning using high-rank feature map, CVPR 2020, section 3.2"

    def watched(self, group: Group) -> tuple[Member, ...]:
        """Where the maps of the group's channels are; NotSupported where they have none."""
        return map_layers(group, "hrank")

    def observe(self, layer: Layer, inputs: Tensor, output: Tensor, state: Tensor | None) -> Tensor | None:
        """(channels, 2): sum of ranks and number of maps so far."""
        maps = maps_after_activation(layer, inputs, output, "hrank")
        return added(state, map_ranks(maps.flatten(0, 1)).view(maps.shape[:2]))

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) mean rank; None for a layer that wasn't watched."""
        return mean_score(layer)
