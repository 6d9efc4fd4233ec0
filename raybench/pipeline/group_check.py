"""Is a grouping right? Remove one unit of each group and look whether the network still computes what it should."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import StageError
from raybench.pipeline import surgery
from raybench.pipeline.attention import plainly
from raybench.pipeline.records import Group, Groups, Member


def check_groups(model: nn.Module, example: Tensor, groups: Groups, *, unit: int = 0) -> dict[str, float | None]:
    """Group name -> largest difference, relative to the largest output, between removing and silencing `unit`.

    None where silencing isn't the same thing: a norm over channels (LayerNorm, GroupNorm) counts silent ones in.
    Forward, and backward in training mode, must run without the unit: StageError names the group where they don't.
    `example`: at least two images where batch norms see a single pixel. The model is left alone.
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
        found[group.name] = None if _counts_silence(model, group) else _difference(model, example, groups, group, unit)
    return found


def _difference(model: nn.Module, example: Tensor, groups: Groups, group: Group, unit: int) -> float:
    slim, silent = copy.deepcopy(model), copy.deepcopy(model)
    surgery.apply(slim, groups, {group.name: tuple(u for u in range(group.size) if u != unit)})
    for member in group.members:
        _silence(silent, member, unit)
    with plainly(slim), plainly(silent), torch.no_grad():
        left, right = _first(slim(example)), _first(silent(example))
    return float((left - right).abs().max() / right.abs().max())


def _silence(model: nn.Module, member: Member, unit: int) -> None:
    """Zero what a unit's positions produce, and what is made of them: no activation function can bring them back."""
    places = torch.from_numpy(member.positions[member.units == unit])
    with torch.no_grad():
        if member.kind == "parameter":
            parameter = model.get_parameter(member.layer)
            axis = max(i for i, size in enumerate(parameter.shape) if size == member.width)
            parameter.index_fill_(axis, places, 0.0)
            return
        module = model.get_submodule(member.layer)
        if module.weight is None:
            return
        if member.side == "in" and getattr(module, "groups", 1) > 1:
            inner = module.weight.shape[1]
            module.weight[:, torch.unique(places % inner)] = 0.0
        else:
            first = "in" if getattr(module, "transposed", False) else "out"
            module.weight.index_fill_(0 if member.side == first or module.weight.dim() == 1 else 1, places, 0.0)
        if member.side == "out" and module.bias is not None:
            module.bias[places] = 0.0


def _counts_silence(model: nn.Module, group: Group) -> bool:
    norms = (model.get_submodule(m.layer) for m in group.members if m.kind == "norm")
    return any(isinstance(norm, (nn.LayerNorm, nn.GroupNorm)) for norm in norms)


def _first(output: object) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def worst(differences: dict[str, float | None]) -> float:
    """The largest difference that is defined; 0 when none is."""
    return float(np.max([d for d in differences.values() if d is not None], initial=0.0))
