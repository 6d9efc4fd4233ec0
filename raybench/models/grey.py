"""Weights of grey images for coloured ones and the other way round: the first convolution's inputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def with_channels(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with convolutions that differ from the network's only in having one input channel, or only one there.

    One channel is spread evenly over those of the network, so that a grey image in colours gives the same outputs;
    several are added up for one, as they meet the same grey value.
    """
    own = model.state_dict()
    return {name: _fitted(value, own[name]) if name in own else value for name, value in state.items()}


def _fitted(value: Tensor, wanted: Tensor) -> Tensor:
    both = [(*one.shape[:1], *one.shape[2:]) for one in (value, wanted)]
    if value.dim() != 4 or wanted.dim() != 4 or both[0] != both[1] or value.shape == wanted.shape:
        return value
    if value.shape[1] == 1:
        return value.expand(-1, wanted.shape[1], -1, -1) / wanted.shape[1]
    return value.sum(1, keepdim=True) if wanted.shape[1] == 1 else value
