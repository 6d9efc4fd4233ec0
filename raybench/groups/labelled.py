"""Between layers and labels: gives the weights of a network their labels, and makes groups of classes of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from raybench.groups.attention import attentions
from raybench.groups.following import Choices, Followed
from raybench.groups.labels import ANY, FIXED, Axis
from raybench.groups.layer_types import CONVOLUTIONS, is_norm
from raybench.groups.members import UNCUTTABLE
from raybench.groups.partition import part_of
from raybench.groups.records import Group, Groups, LayerKind, Member, Side


@dataclass(frozen=True)
class Place:
    """One side of one layer, or one axis of a bare parameter, with its labels."""

    layer: str
    kind: LayerKind
    side: Side
    labels: np.ndarray
    folds: int = 1
    axis: int | None = None


def note_labels(followed: Followed, model: nn.Module) -> None:
    """Label every axis of every parameter, and the statistics of norms; other buffers have a fixed width."""
    seen: dict[int, str] = {}
    for name, module in model.named_modules():
        known = is_norm(module)
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            full = f"{name}.{attribute}" if name else attribute
            if id(tensor) in seen:
                for axis in followed.axes(tensor):
                    followed.labels.pin(axis, f"it shares {seen[id(tensor)]}")
                continue
            seen[id(tensor)] = full
            followed.note(tensor, _axes(followed, module, attribute, tensor, known))


def _axes(followed: Followed, module: nn.Module, attribute: str, tensor: Tensor, known: bool) -> list[Axis]:
    parameter = isinstance(tensor, nn.Parameter)
    if isinstance(module, UNCUTTABLE) and not isinstance(module, nn.PReLU):
        return [FIXED] * tensor.dim()
    if not parameter and not (known and tensor.dim() == 1):
        return [FIXED] * tensor.dim()
    axes: list[Axis] = [followed.labels.fresh(n) for n in tensor.shape]
    if isinstance(module, (*CONVOLUTIONS, nn.Linear)) or known:
        return [*axes[:2], *[FIXED] * (tensor.dim() - 2)]
    return [axis if n > 1 else ANY for axis, n in zip(axes, tensor.shape, strict=True)]


def grouped(
    model: nn.Module, followed: Followed, choices: Choices, parts: Sequence[str]
) -> tuple[Groups, dict[str, str]]:
    """The groups that the followed labels make, and layer -> why its outputs stay whole."""
    places = list(places_of(model, followed))
    for place in places:
        if (place.layer, place.side) in choices.layers:
            followed.labels.pin(place.labels, "protected")
    places = _with_bare_weights(followed, places)
    classes, pinned = followed.labels.classes()
    found: list[Group] = []
    whole: dict[str, str] = {}
    outs = [p for p in places if p.side == "out" and p.kind in ("conv", "linear")]
    for signature, units in _signatures(places, classes, pinned).items():
        group = _group(signature, units, places, classes, {g.name for g in found}, model, parts)
        if group is not None:
            found.append(group)
    cut = {m.layer for g in found for m in g.members if m.side == "out"}
    order = {p.layer: i for i, p in enumerate(outs)}
    found.sort(key=lambda g: (order.get(g.name.partition(":")[0], len(order)), g.name))
    for place in outs:
        if place.layer not in cut:
            whole[place.layer] = followed.labels.reason(place.labels, classes) or "too few channels"
    return Groups(tuple(found), tuple(whole)), whole


def places_of(model: nn.Module, followed: Followed) -> Iterator[Place]:
    """Every labelled side of every layer, in the order of `named_modules`; sides that never ran have labels, too."""
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        layer = isinstance(module, (*CONVOLUTIONS, nn.Linear)) or is_norm(module)
        if isinstance(module, nn.Linear) and isinstance(weight, nn.Parameter):
            axes = followed.axes(weight)
            yield from _sides(name, "linear", axes[0], axes[1])
        elif isinstance(module, CONVOLUTIONS) and isinstance(weight, nn.Parameter):
            yield from _convolution(name, module, followed.axes(weight))
        elif is_norm(module):
            tensor = next((t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None
                           and t.dim() == 1), None)  # fmt: skip
            axis = followed.axes(tensor)[0] if tensor is not None else FIXED
            if isinstance(axis, np.ndarray):
                _unite_all(followed, module, axis)
                folds = module.num_groups if isinstance(module, nn.GroupNorm) else 1
                yield Place(name, "norm", "out", axis, folds)
        if not isinstance(module, UNCUTTABLE) or isinstance(module, nn.PReLU):
            yield from _bare(name, module, followed, ("weight", "bias") if layer else ())


def _unite_all(followed: Followed, module: nn.Module, axis: np.ndarray) -> None:
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None and tensor.dim() == 1:
            followed.join(axis, followed.axes(tensor)[0], "a norm")


def _sides(name: str, kind: LayerKind, out: Axis, into: Axis, folds: int = 1) -> Iterator[Place]:
    if isinstance(out, np.ndarray):
        yield Place(name, kind, "out", out, folds)
    if isinstance(into, np.ndarray):
        yield Place(name, kind, "in", into, folds)


def _convolution(name: str, conv: _ConvNd, axes: Sequence[Axis]) -> Iterator[Place]:
    out, into = (axes[1], axes[0]) if conv.transposed else (axes[0], axes[1])
    if conv.groups == 1:
        yield from _sides(name, "conv", out, into)
    elif conv.groups == conv.in_channels:  # the input side of a depthwise convolution is its output side
        side = into if conv.transposed else out
        if isinstance(side, np.ndarray):
            yield Place(name, "depthwise", "out", side)
    elif not conv.transposed and isinstance(into, np.ndarray):
        yield from _sides(name, "conv", out, np.tile(into, conv.groups), conv.groups)


def _bare(name: str, module: nn.Module, followed: Followed, known: Sequence[str]) -> Iterator[Place]:
    for attribute, parameter in module.named_parameters(recurse=False):
        if attribute in known:
            continue
        for k, axis in enumerate(followed.axes(parameter)):
            if isinstance(axis, np.ndarray) and len(axis) > 1:
                yield Place(f"{name}.{attribute}" if name else attribute, "parameter", "out", axis, 1, k)


def _with_bare_weights(followed: Followed, places: Sequence[Place]) -> list[Place]:
    """The places; of a bare parameter with two free axes the second is its input side. More than two stay whole."""
    classes, pinned = followed.labels.classes()
    free: dict[str, list[int]] = {}
    for i, place in enumerate(places):
        if place.kind == "parameter" and not pinned[classes[place.labels]].all():
            free.setdefault(place.layer, []).append(i)
    found = list(places)
    for name, axes in free.items():
        if len(axes) == 2:
            found[axes[1]] = replace(places[axes[1]], side="in")
        for i in axes if len(axes) > 2 else ():
            followed.labels.pin(places[i].labels, f"{name} is a weight of no known layer")
    return found


Signature = tuple[tuple[int, int], ...]  # (place, positions in it) of one unit


def _signatures(places: Sequence[Place], classes: np.ndarray, pinned: np.ndarray) -> dict[Signature, list[int]]:
    """Units that own as many positions of the same places as each other, in the order of their first position."""
    owned: dict[int, list[tuple[int, int]]] = {}
    for i, place in enumerate(places):
        units, counts = np.unique(classes[place.labels], return_counts=True)
        for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
            if not pinned[unit]:
                owned.setdefault(unit, []).append((i, count))
    found: dict[Signature, list[int]] = {}
    for unit, sides in owned.items():
        found.setdefault(tuple(sides), []).append(unit)
    return found


def _group(
    signature: Signature,
    units: Sequence[int],
    places: Sequence[Place],
    classes: np.ndarray,
    names: set[str],
    model: nn.Module,
    parts: Sequence[str],
) -> Group | None:
    """The group of units with one signature; None where no layer makes them, they are too few or not to be cut."""
    here = [places[i] for i, _ in signature]
    roots = [p for p in here if p.side == "out" and p.kind in ("conv", "linear")]
    if not roots:
        return None
    first = roots[0]
    chosen = set(units)
    order = list(dict.fromkeys(u for u in classes[first.labels].tolist() if u in chosen))
    number = {unit: k for k, unit in enumerate(order)}
    members = []
    for place in here:
        of = np.array([number.get(u, -1) for u in classes[place.labels].tolist()])
        positions = np.nonzero(of >= 0)[0]
        members.append(
            Member(place.layer, place.kind, place.side, len(of), positions, of[positions], place.folds, place.axis)
        )
    members.sort(key=lambda m: m.side != "out" or m.kind not in ("conv", "linear"))
    part = part_of(members, attentions(model))
    if part != "channels" and part not in parts:
        return None
    least = 2 if any(m.kind == "conv" and m.folds > 1 for m in members) else 1
    name = next(n for k in range(len(names) + 1) if (n := first.layer + (f":{k}" if k else "")) not in names)
    return Group(name, len(order), tuple(members), part, least) if len(order) > least else None
