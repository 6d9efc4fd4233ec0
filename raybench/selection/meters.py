"""Costs of networks that may lack whole blocks: of the network, of one block in it, and of what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from raybench.groups.cost import Cost
from raybench.groups.records import Groups
from raybench.selection.problem import Meter

Spent = Callable[[np.ndarray], np.ndarray]  # kept units of every group, (..., groups) -> cost (...,)


class BlockMeter(Protocol):
    """A cost that a target may be of, where blocks go whole."""

    def __call__(self, cost: Cost) -> Meter:
        """Of the whole network, whose exact counts are `cost`."""

    def within(self, cost: Cost, block: str, params: int) -> Spent | None:
        """Of the module `block` in the whole network, which holds `params` parameters; None where it isn't known."""

    def left(self, model: nn.Module, groups: Groups, example: Tensor) -> Meter:
        """Of `model`, the network without some blocks, as a function of its `groups`."""


@dataclass(frozen=True)
class Counted:
    """A cost that follows from exact counts, such as MACs or parameters."""

    meter: Callable[[Cost], Meter] = Meter.macs

    def __call__(self, cost: Cost) -> Meter:
        """Of the whole network."""
        return self.meter(cost)

    def within(self, cost: Cost, block: str, params: int) -> Spent | None:
        """Of one block; None where the network multiplies outside its known layers."""
        own = cost.within(block, params)
        return None if own is None else self.meter(own).of

    def left(self, model: nn.Module, groups: Groups, example: Tensor) -> Meter:
        """Of the network without some blocks."""
        return self.meter(Cost.measure(model, example, groups))


MACS = Counted()
