"""Exponential moving average of the weights, evaluated and kept instead of the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """average <- decay * average + (1 - decay) * weights after each step; integer buffers (counters) are copied.

    `decay` may be changed between steps. The initial weights count. One call updates all tensors of a kind.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        own: dict[str, Tensor] = model.state_dict(keep_vars=True)
        live = {id(value): value for value in own.values()}  # shared weights stay shared
        copies = {key: value.detach().clone() for key, value in live.items()}
        self._weights = {name: copies[id(value)] for name, value in own.items()}
        self._averaged: list[tuple[Tensor, Tensor]] = []
        self._copied: list[tuple[Tensor, Tensor]] = []
        for key, value in live.items():
            floating = value.is_floating_point() or value.is_complex()
            (self._averaged if floating else self._copied).append((copies[key], value))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict; its tensors are updated in place."""
        return self._weights

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights of the network that this average was made of."""
        if self._averaged:
            averages, values = zip(*self._averaged, strict=True)
            torch._foreach_lerp_(averages, values, 1 - self.decay)
        if self._copied:
            averages, values = zip(*self._copied, strict=True)
            torch._foreach_copy_(averages, values)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Restore a saved average."""
        for name, value in self._weights.items():
            value.copy_(weights[name])

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Context in which `model` has the averaged weights."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)
