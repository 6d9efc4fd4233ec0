"""Which tensors of a network depend on the number of classes: its classifier, which other data needs a new one of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from raybench.datasets.facts import DataFacts
from raybench.models.build import build_model

MANY = 1000  # a number of classes that widens even layers which are at least so wide as there are classes


@dataclass(frozen=True)
class Head:
    """The classifier of the network `name` for `data`; found by building the network for other numbers of classes."""

    name: str
    data: DataFacts
    params: Mapping[str, Any]

    @property
    def classes(self) -> int:
        """Number of classes of the data."""
        return self.data.classes

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers whose shape depends on the number of classes."""
        own = self._shapes(self.classes)
        others = [self._shapes(count) for count in (self.classes + 1, MANY) if count != self.classes]
        return frozenset(name for name, shape in own.items() if any(other.get(name) != shape for other in others))

    def _shapes(self, classes: int) -> dict[str, torch.Size]:
        with torch.random.fork_rng(devices=[]):
            model = build_model(self.name, replace(self.data, classes=classes), self.params)
        return {name: value.shape for name, value in model.state_dict().items()}
