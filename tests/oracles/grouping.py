"""Checks a grouping: removing one unit of each group must equal setting its channels to zero."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import StageError
from raybench.groups import surgery
from raybench.groups.attention import plainly
from raybench.groups.records import Group, Groups, Member


def check_groups(model: nn.Module, example: Tensor, groups: Groups, *, unit: int = 0) -> dict[str, float | None]:
    """Compare the network without `unit` of each group with the network in which that unit is zeroed.

    Returns group name -> largest difference, relative to the largest output. None where the two legitimately differ:
    a norm over channels (LayerNorm, GroupNorm) includes zeroed channels in its statistics. `example` needs at least
    two images where batch norms see a single pixel. The model isn't changed.

    Raises:
        StageError: forward or backward (in training mode) fails without the unit; names the group.
    """
    found: dict[str, float | None] = {}
    for group in groups:
        kept = {group.name: tuple(u for u in range(group.size) if u != unit)}
        try:
            slim = copy.deepcopy(model)
            surgery.apply(slim, groups, kept)
            output = _first(slim.train()(example))
            output.float().sum().backward()
        except (RuntimeError, ValueError) as error:
            raise StageError(
                "group", f"without unit {unit} of group {group.name} the network fails: {error}"
            ) from error
        over_channels = _normalises_channels(model, group)
        found[group.name] = None if over_channels else _difference(model, example, groups, group, unit)
    return found


def _difference(model: nn.Module, example: Tensor, groups: Groups, group: Group, unit: int) -> float:
    slim, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    surgery.apply(slim, groups, {group.name: tuple(u for u in range(group.size) if u != unit)})
    for member in group.members:
        silence(zeroed, member, [unit])
    with plainly(slim), plainly(zeroed), torch.no_grad():
        left, right = _first(slim(example)), _first(zeroed(example))
    return float((left - right).abs().max() / right.abs().max())


def silence(model: nn.Module, member: Member, units: Sequence[int]) -> None:
    """Zero the weights that produce the units' channels and those that read them (f(0) may not be 0)."""
    places = torch.from_numpy(member.positions[np.isin(member.units, units)])
    with torch.no_grad():
        if member.kind == "parameter":
            parameter = model.get_parameter(member.layer)
            axis = surgery.axis_of(parameter, member)
            parameter.index_fill_(axis, places, 0.0)
            return
        module = model.get_submodule(member.layer)
        weight, bias = module.weight, getattr(module, "bias", None)
        if not isinstance(weight, Tensor):
            return
        if member.side == "in" and getattr(module, "groups", 1) > 1:
            weight[:, torch.unique(places % weight.shape[1])] = 0.0
        else:
            first = "in" if getattr(module, "transposed", False) else "out"
            weight.index_fill_(0 if member.side == first or weight.dim() == 1 else 1, places, 0.0)
        if member.side == "out" and isinstance(bias, Tensor):
            bias[places] = 0.0


def _normalises_channels(model: nn.Module, group: Group) -> bool:
    norms = (model.get_submodule(m.layer) for m in group.members if m.kind == "norm")
    return any(isinstance(norm, (nn.LayerNorm, nn.GroupNorm)) for norm in norms)


def _first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def worst(differences: dict[str, float | None]) -> float:
    """The largest difference that is defined; 0 when none is."""
    return float(np.max([d for d in differences.values() if d is not None], initial=0.0))


def reduced(groups, member_scores):
    """Sum a member's channel scores per unit, then average over the members that have a say."""
    result = []
    for group in groups:
        rows = []
        for member in group.members:
            found = member_scores(group, member)
            if found is None:
                continue
            units = [0.0] * group.size
            for position, unit in zip(member.positions, member.units, strict=True):
                units[unit] += float(found[position])
            rows.append(units)
        result.append([sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else None)
    return result
