"""CHIP: channels whose feature maps the other channels' maps can replace are removed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raybench.groups.records import Group, Member
from raybench.methods.independence import independence
from raybench.methods.maps import added, map_layers, maps_after_activation, mean_score
from raybench.methods.protocols import Importance, Layer
from raybench.registry import importance


@importance("chip")
@dataclass(frozen=True)
class Chip(Importance):
    """Channel independence (Sui et al., equation 5): the nuclear norm that a layer's maps lose without the channel.

    Of each image's maps as a matrix A of (channels, height * width): ||A||_* - ||A with the channel's row zeroed||_*,
    mean over the calibration images. Maps are taken after the activation, where hrank takes them: from the next
    convolutions' inputs; of a layer that reads several groups all maps that it reads are in A.
    """

    needs = "activations"
    paper = "Sui et al., CHIP: Channel independence-based pruning, NeurIPS 2021, section 3.2, equation 5"

    def watched(self, group: Group) -> tuple[Member, ...]:
        """Where the maps of the group's channels are; NotSupported where they have none."""
        return map_layers(group, "chip")

    def observe(self, layer: Layer, inputs: Tensor, output: Tensor, state: Tensor | None) -> Tensor | None:
        """(channels, 2): sum of scores and number of images so far."""
        maps = maps_after_activation(layer, inputs, output, "chip")
        return added(state, independence(maps.flatten(2)))

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) mean over the images; None for a layer that wasn't watched."""
        return mean_score(layer)
