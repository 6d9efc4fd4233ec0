"""Selections whose channels are picked before training, by magnitude, and pushed out by a penalty that grows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.errors import NotSupported
from raybench.groups.records import Group, Groups, Member
from raybench.methods.layers import Arrangement, arrangement, weight_of
from raybench.methods.protocols import has_filters
from raybench.methods.trained_selection import Budget, Kept, TrainedSelection


@dataclass(frozen=True)
class PickedFilters:
    """The filters of one layer. `gone`: (filters,), 1 for those that go, 0 for the others."""

    weight: nn.Parameter
    layout: Arrangement
    gone: Tensor
    dense: bool  # whether all filters read the same inputs

    def shrink(self, factor: float) -> None:
        """grad += factor * w for the filters that go."""
        assert self.weight.grad is not None  # every layer takes part in the loss
        weight = self.weight.detach()
        self.weight.grad.addcmul_(weight, self.layout.spread(self.gone * factor, weight))


@dataclass(frozen=True)
class PickedNorm:
    """Scale and bias of a batch norm. `gone`: (channels,), as above."""

    scale: nn.Parameter
    bias: nn.Parameter
    gone: Tensor

    def shrink(self, factor: float) -> None:
        """grad += factor * value for the channels that go."""
        for values in (self.scale, self.bias):
            assert values.grad is not None
            values.grad.addcmul_(values.detach(), self.gone * factor)


@dataclass
class PickedSelection(TrainedSelection):
    """Base of methods with one penalty factor, which is `growth` larger after every `interval` steps, up to `ceiling`.

    The rest of the stage stabilises. Which units go is decided by `attach`: those of smallest magnitude, the mean
    absolute weight of a unit's filters over that of its group.
    """

    growth: float = 1e-4
    interval: int = 10
    ceiling: float = 1.0
    _steps: int = field(default=0, init=False, repr=False)

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Pick the units that go. NotSupported where no group has filters."""
        scores = {group.name: one for group in budget.groups if (one := magnitudes(model, group)) is not None}
        if not scores:
            raise NotSupported(
                f"no group of {type(model).__name__} has filters, by whose magnitude channels are picked"
            )
        self._kept = budget.choose(scores)
        self._filters, self._norms = _picked(model, budget.groups, self._kept)

    @property
    def factor(self) -> float:
        """The penalty's factor in the next step."""
        return min(self.growth * (self._steps // self.interval), self.ceiling)

    def add_gradients(self) -> None:
        """Add the penalty's gradient with the present factor, and count the step."""
        self.penalise(self.factor)
        self._steps += 1

    def penalise(self, factor: float) -> None:
        """Add the penalty's gradient; the subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} must define penalise(factor)")

    def kept(self) -> Kept:
        """The units that were picked to stay."""
        if self.factor < self.ceiling:
            warnings.warn(
                f"{type(self).__name__}: the penalty's factor ended at {self.factor:.3g} of {self.ceiling:g}; a longer "
                "sparsify, a larger growth or a smaller interval let it reach its ceiling",
                stacklevel=2,
            )
        return self._kept

    def state_dict(self) -> Mapping[str, Tensor]:
        """The number of steps; the picked units follow from the dense network."""
        return {"steps": torch.tensor(self._steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore it."""
        self._steps = int(state["steps"])


def magnitudes(model: nn.Module, group: Group) -> np.ndarray | None:
    """(units,) mean absolute weight of each unit's filters, over the group's mean; None for a group without filters."""
    found = []
    for member in _with_filters(model, group):
        weight = weight_of(model, member)
        assert weight is not None  # `_with_filters` has looked
        rows = arrangement(model, member).rows(weight.detach().double()).abs().flatten(1).mean(1).cpu().numpy()
        counts = np.bincount(member.units, minlength=group.size).clip(1)
        found.append(np.bincount(member.units, rows[member.positions], group.size) / counts)
    if not found:
        return None
    scores = np.mean(found, axis=0)
    return np.asarray(scores / scores.mean() if scores.any() else scores)


def _with_filters(model: nn.Module, group: Group) -> Iterator[Member]:
    return (one for one in group.members if has_filters(one) and isinstance(weight_of(model, one), nn.Parameter))


def _picked(model: nn.Module, groups: Groups, kept: Kept) -> tuple[tuple[PickedFilters, ...], tuple[PickedNorm, ...]]:
    """The layers that have filters, and the batch norms, with what of them goes; a layer of several groups once."""
    gone: dict[str, Tensor] = {}
    members: dict[str, Member] = {}
    for group in groups:
        goes = np.isin(np.arange(group.size), kept.get(group.name, np.arange(group.size)), invert=True)
        norms = (one for one in group.members if isinstance(_module(model, one), _BatchNorm) and _affine(model, one))
        for member in (*_with_filters(model, group), *norms):
            mask = gone.setdefault(member.layer, torch.zeros(member.width))
            mask[torch.from_numpy(member.positions[goes[member.units]])] = 1.0
            members[member.layer] = member
    filters, scales = [], []
    for name, member in members.items():
        module, weight = model.get_submodule(name), weight_of(model, member)
        assert isinstance(weight, nn.Parameter)  # as chosen above
        mask = gone[name].to(weight)
        if member.kind == "norm":
            scales.append(PickedNorm(weight, module.get_parameter("bias"), mask))
        else:
            dense = member.kind in ("conv", "linear") and getattr(module, "groups", 1) == 1
            filters.append(PickedFilters(weight, arrangement(model, member), mask, dense))
    return tuple(filters), tuple(scales)


def _module(model: nn.Module, member: Member) -> nn.Module | None:
    return None if member.kind != "norm" else model.get_submodule(member.layer)


def _affine(model: nn.Module, member: Member) -> bool:
    norm = model.get_submodule(member.layer)
    return isinstance(norm.weight, nn.Parameter) and isinstance(norm.bias, nn.Parameter)
