"""Exponential moving average of the weights, evaluated and kept instead of the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average:
    """average <- decay * average + (1 - decay) * weights after each step; integer buffers (counters) are copied.

    `decay` may be changed between steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._fold, use_buffers=True)
        self._averaged.n_averaged.fill_(1)  # the initial weights count: at 0 the first update would replace them

    @property
    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict; its tensors are updated in place."""
        weights: dict[str, Tensor] = self._averaged.module.state_dict()
        return weights

    def update(self, model: nn.Module) -> None:
        """Add the current weights to the average."""
        self._averaged.update_parameters(model)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Restore a saved average."""
        self._averaged.module.load_state_dict(weights)

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Context in which `model` has the averaged weights."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    @torch.no_grad()
    def _fold(self, averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        """AveragedModel's update of tensors of one type. (torch's own has a fixed decay and averages counters, too.)"""
        for average, value in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - self.decay)
            else:
                average.copy_(value)
