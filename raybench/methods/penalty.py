"""The weights of each unit of a group, for regularizers: their squared norms and the gradient of a penalty on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.groups.records import Group, Member
from raybench.methods.layers import UNSCORED_KINDS, Arrangement, arrangement, weight_of

Choice = Callable[[Member, nn.Module], bool]  # (a member, its layer) -> whether the layer takes part


@dataclass(frozen=True)
class Part:
    """One member's part of a group: which positions of which weight belong to which unit."""

    weight: nn.Parameter
    layout: Arrangement
    positions: Tensor  # (m,) int64
    units: Tensor  # (m,) int64
    width: int
    pulled: bool = True  # False: it counts in the norms, but the penalty doesn't act on it
    direct: bool = False  # position i belongs to unit i, for all: nothing has to be gathered or scattered

    def squares(self, size: int) -> Tensor:
        """(size,) sum of this part's squared weights for each unit."""
        rows = self.layout.rows(self.weight.detach().square()).flatten(1).sum(1)
        if self.direct:
            return rows
        return rows.new_zeros(size).index_add_(0, self.units, rows[self.positions])

    def pull(self, values: Tensor) -> None:
        """grad += values[unit] * w at this part's positions, where it is pulled and its weight has a gradient."""
        if self.weight.grad is None or not self.pulled:
            return
        by_position = values
        if not self.direct:
            by_position = values.new_zeros(self.width).index_copy_(0, self.positions, values[self.units])
        weight = self.weight.detach()
        self.weight.grad.addcmul_(weight, self.layout.spread(by_position, weight))


@dataclass(frozen=True)
class GroupWeights:
    """The weights that one group's units own, over those layers of the group that take part.

    A weight whose rows and columns both belong to the group counts once as a row and once as a column.
    """

    name: str
    size: int
    parts: tuple[Part, ...]

    def squares(self) -> Tensor:
        """(size,) squared L2 norm of each unit: sum over layers of ||w_k||^2 (DepGraph's I_k, eq. 4)."""
        return torch.stack([part.squares(self.size) for part in self.parts]).sum(0)

    def mean_squares(self) -> Tensor:
        """(size,) mean over layers of ||w_k||^2."""
        return self.squares() / len(self.parts)

    def pull(self, values: Tensor) -> None:
        """grad += values[k] * w for every weight of unit k; `values` is (size,)."""
        for part in self.parts:
            part.pull(values)


def bind_groups(
    model: nn.Module,
    groups: Iterable[Group],
    *,
    counted: Choice = lambda member, layer: True,
    pulled: Choice = lambda member, layer: True,
) -> tuple[GroupWeights, ...]:
    """The weights of every group that has any, on the model's device.

    Only what scoring gives a vote takes part: no biases, and no bare parameters such as position embeddings, class
    tokens and layer scales, which no criterion scores.

    Args:
        model: the network.
        groups: its prunable groups.
        counted: chooses among the scored layers; all by default.
        pulled: chooses among the counted ones those that the penalty acts on; all by default.

    Returns:
        One `GroupWeights` for each group with a counted layer.
    """
    bound = []
    for group in groups:
        scored = [member for member in group.members if member.kind not in UNSCORED_KINDS]
        layers = [(member, model.get_submodule(member.layer)) for member in scored]
        found = [_part(model, member, group.size, pulled(member, layer))
                 for member, layer in layers if counted(member, layer)]  # fmt: skip
        parts = tuple(part for part in found if part is not None)
        if parts:
            bound.append(GroupWeights(group.name, group.size, parts))
    return tuple(bound)


def is_batch_norm(member: Member, layer: nn.Module) -> bool:
    """Whether `layer` is a batch norm."""
    return isinstance(layer, _BatchNorm)


def is_other_norm(member: Member, layer: nn.Module) -> bool:
    """Whether `layer` is a norm of another kind: a layer norm, a group norm."""
    return member.kind == "norm" and not isinstance(layer, _BatchNorm)


def _part(model: nn.Module, member: Member, size: int, pulled: bool) -> Part | None:
    weight = weight_of(model, member)
    if not isinstance(weight, nn.Parameter):
        return None
    positions = torch.as_tensor(member.positions, device=weight.device)
    units = torch.as_tensor(member.units, device=weight.device)
    in_order = np.arange(size)
    direct = (
        size == member.width and np.array_equal(member.positions, in_order) and np.array_equal(member.units, in_order)
    )
    return Part(weight, arrangement(model, member), positions, units, member.width, pulled, direct)
