"""State of training after each epoch, saved so that a killed run resumes with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raybench.methods.protocols import Regularizer
from raybench.tasks.training.ema import Average


@dataclass
class TrainingState:
    """Everything that training changes: resuming from a `state()` gives the numbers of an uninterrupted run."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    regularizer: Regularizer | None
    computing: Mapping[str, str] = field(default_factory=dict)  # what a stage that goes on doesn't choose anew
    epoch: int = 0  # finished epochs
    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_metric: float = -1.0
    best_loss: float = 0.0  # on the same split; decides between epochs of equal metric
    best: dict[str, Tensor] = field(default_factory=dict)  # weights of the best epoch

    def offer(self, metric: float, loss: float, weights: Mapping[str, Tensor]) -> None:
        """Keep a copy of the weights if this epoch is the best so far: higher metric, then lower loss, then first."""
        if (metric, -loss) > (self.best_metric, -self.best_loss):
            self.best_epoch, self.best_metric, self.best_loss = self.epoch, metric, loss
            self.best = {name: value.detach().clone() for name, value in weights.items()}

    def state(self) -> dict[str, Any]:
        """Nested dicts of tensors, numbers and strings; no random state, as each epoch seeds its own generators."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.weights if self.average else {},
            "regularizer": dict(self.regularizer.state_dict()) if self.regularizer else {},
            "computing": dict(self.computing),
            "epoch": self.epoch,
            "curve": self.curve,
            "best_epoch": self.best_epoch,
            "best_metric": self.best_metric,
            "best_loss": self.best_loss,
            "best": self.best,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a saved `state()`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        _lay_out_as_weights(self.optimizer)
        if self.average:
            self.average.load(state["average"])
        if self.regularizer:
            self.regularizer.load_state_dict(state["regularizer"])
        self.epoch, self.curve = state["epoch"], [dict(entry) for entry in state["curve"]]
        self.best_epoch, self.best_metric = state["best_epoch"], state["best_metric"]
        self.best_loss = state["best_loss"]
        device = next(self.model.parameters()).device
        self.best = {name: value.to(device) for name, value in state["best"].items()}


def _lay_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's tensors the strides of their weights: fused steps pair both by their places in memory."""
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
