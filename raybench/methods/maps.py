"""The feature maps of a group's channels, as the criteria that look at maps see them: after the activation."""

from __future__ import annotations

import torch
from torch import Tensor

from raybench.errors import NotSupported
from raybench.groups.records import Group, Member
from raybench.methods.protocols import Layer


def map_layers(group: Group, method: str) -> tuple[Member, ...]:
    """The convolutions that read the group's channels, else its norms, else its convolutions.

    Args:
        group: the group to score.
        method: name of the criterion, for the message.

    Returns:
        Sides of layers whose maps are those of the group's channels.

    Raises:
        NotSupported: the channels have no two-dimensional maps.
    """
    for kinds, side in ((("conv",), "in"), (("norm",), "out"), (("conv", "depthwise"), "out")):
        found = tuple(m for m in group.members if m.kind in kinds and m.side == side)
        if found and (side == "in" or any(m.kind in ("conv", "depthwise") for m in group.members)):
            return found
    raise NotSupported(f"{method} can't score {group.members[0].layer}: its channels have no two-dimensional maps")


def maps_after_activation(layer: Layer, inputs: Tensor, output: Tensor, method: str) -> Tensor:
    """What the next layer reads, or, where none is watched, the positive part of what this one writes.

    Args:
        layer: a side that `map_layers` names.
        inputs: what the layer got.
        output: what it gave.
        method: name of the criterion, for the message.

    Returns:
        (images, channels, height, width).

    Raises:
        NotSupported: these are no two-dimensional maps.
    """
    maps = inputs if layer.side == "in" else output.clamp(min=0)
    if maps.dim() != 4:
        raise NotSupported(f"{method} can't score {layer.name}: its maps have shape {tuple(maps.shape[1:])}")
    return maps


def added(state: Tensor | None, scores: Tensor) -> Tensor:
    """Add one batch to the sums of a mean over images.

    Args:
        state: what this function returned for the batch before; None at first.
        scores: (images, channels), of one batch.

    Returns:
        (channels, 2) float64: sum of scores and number of images so far.
    """
    total = scores.double().sum(0)
    batch = torch.stack([total, torch.full_like(total, len(scores))], 1)
    return batch if state is None else state + batch


def mean_score(layer: Layer) -> Tensor | None:
    """(channels,) mean over the images that `added` has seen; None for a layer that wasn't watched."""
    return None if layer.state is None else layer.state[:, 0] / layer.state[:, 1]
