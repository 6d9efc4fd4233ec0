"""The weights of each unit of a group, for regularizers: their squared norms and the gradient of a penalty on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybench.groups.records import Group, Member
from raybench.methods.layers import Arrangement, arrangement, weight_of


@dataclass(frozen=True)
class Part:
    """One member's part of a group: which positions of which weight belong to which unit."""

    weight: nn.Parameter
    layout: Arrangement
    positions: Tensor  # (m,) int64
    units: Tensor  # (m,) int64
    width: int

    def squares(self, size: int) -> Tensor:
        """(size,) sum of this part's squared weights for each unit."""
        rows = self.layout.rows(self.weight.detach().square()).flatten(1).sum(1)
        return rows.new_zeros(size).index_add_(0, self.units, rows[self.positions])

    def pull(self, values: Tensor) -> None:
        """grad += values[unit] * w at this part's positions; does nothing where the weight has no gradient."""
        if self.weight.grad is None:
            return
        by_position = values.new_zeros(self.width).index_copy_(0, self.positions, values[self.units])
        weight = self.weight.detach()
        self.weight.grad.addcmul_(weight, self.layout.spread(by_position, weight))


@dataclass(frozen=True)
class GroupWeights:
    """All weights that one group's units own, over all layers of the group.

    A weight whose rows and columns both belong to the group counts once as a row and once as a column.
    """

    name: str
    size: int
    parts: tuple[Part, ...]

    def squares(self) -> Tensor:
        """(size,) squared L2 norm of each unit: sum over layers of ||w_k||^2 (DepGraph's I_k, eq. 4)."""
        return torch.stack([part.squares(self.size) for part in self.parts]).sum(0)

    def pull(self, values: Tensor) -> None:
        """grad += values[k] * w for every weight of unit k; `values` is (size,)."""
        for part in self.parts:
            part.pull(values)


def bind_groups(model: nn.Module, groups: Iterable[Group]) -> tuple[GroupWeights, ...]:
    """The weights of every group that has any, on the model's device. Biases aren't included."""
    bound = []
    for group in groups:
        parts = tuple(part for member in group.members if (part := _part(model, member)) is not None)
        if parts:
            bound.append(GroupWeights(group.name, group.size, parts))
    return tuple(bound)


def _part(model: nn.Module, member: Member) -> Part | None:
    weight = weight_of(model, member)
    if not isinstance(weight, nn.Parameter):
        return None
    positions = torch.as_tensor(member.positions, device=weight.device)
    units = torch.as_tensor(member.units, device=weight.device)
    return Part(weight, arrangement(model, member), positions, units, member.width)
