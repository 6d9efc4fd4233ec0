"""Which layer's outputs are which other layer's inputs, read from the groups: links, norms on them, identity shortcuts.

Layers count in the order in which the network defines them. Within a group a run of layers that write the channels,
followed by those that read them, is a stage. All that write in a stage are added up; what an earlier stage wrote
arrives through an identity shortcut. A depthwise convolution reads one stage and is the next one, with no shortcut
around it. A batch norm right behind a convolution belongs to it; every other norm stands before the layers that read
next, in place of such batch norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.groups.records import Group, Groups, Member
from raybench.methods.protocols import has_filters


@dataclass(frozen=True)
class Link:
    """Outputs of one layer that are inputs of another; n pairs of positions."""

    writer: str
    reader: str
    outputs: np.ndarray  # (n,) of the writer
    inputs: np.ndarray  # (n,) of the reader
    factors: np.ndarray  # (n,) squared scales of the norms between the two


@dataclass(frozen=True)
class Shortcut:
    """Positions of a layer's side that an identity shortcut adds to (side in) or carries on (side out)."""

    layer: str
    side: str
    positions: np.ndarray


@dataclass
class _Stage:
    """Layers that write a group's channels, each with the batch norms that belong to it, and those that read them."""

    plain: bool  # False for a depthwise convolution, around which nothing goes
    writers: list[tuple[Member, list[Member]]] = field(default_factory=list)
    readers: list[tuple[Member, tuple[Member, ...], bool]] = field(default_factory=list)  # norms before it; own ones?


def links_of(model: nn.Module, groups: Groups) -> tuple[list[Link], list[Shortcut]]:
    """All links between layers of the groups; a pair of positions that two groups share is in one link only."""
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    links: list[Link] = []
    shortcuts: list[Shortcut] = []
    for group in groups:
        stages = _stages(model, group, order)
        links += [link for stage in stages for link in _links(model, stage)]
        shortcuts += _shortcuts(stages)
    return _distinct(links), shortcuts


def _stages(model: nn.Module, group: Group, order: dict[str, int]) -> list[_Stage]:
    members = [m for m in group.members if m.kind not in ("parameter", "embedding")]
    stages: list[_Stage] = []
    front: list[Member] = []  # norms before the layers that read next
    own, read = True, False  # whether batch norms behind writers still count; whether the last layer is a reader
    for m in sorted(members, key=lambda m: (order[m.layer], m.side == "out")):
        stage = stages[-1] if stages else None
        if m.kind == "norm" and stage:
            if not stage.readers and isinstance(model.get_submodule(m.layer), _BatchNorm) and not front:
                stage.writers[-1][1].append(m)
            else:
                front, own = [m] if read else [*front, m], own and not stage.readers
            read = False
        if stage and (m.side == "in" or m.kind == "depthwise"):
            stage.readers.append((m, tuple(front), own))
            read = True
        if has_filters(m):
            if stage is None or stage.readers:
                stages.append(_Stage(plain=m.kind != "depthwise"))
                front, own, read = [], True, False
            stages[-1].writers.append((m, []))
    return stages


def _links(model: nn.Module, stage: _Stage) -> Iterator[Link]:
    for reader, front, own in stage.readers:
        for writer, norms in stage.writers:
            outputs, inputs = _paired(_table(writer), _table(reader))
            factors = np.ones(outputs.shape)
            for norm in (*norms, *front) if own else front:
                scales = _squared_scales(model.get_submodule(norm.layer), norm.width)
                factors = factors * scales[_stretched(_table(norm), outputs.shape[1])]
            yield Link(writer.layer, reader.layer, outputs.ravel(), inputs.ravel(), factors.ravel())


def _shortcuts(stages: Sequence[_Stage]) -> Iterator[Shortcut]:
    for i, stage in enumerate(stages):
        if i and stage.plain:
            yield from (Shortcut(reader.layer, "in", reader.positions) for reader, _, _ in stage.readers)
        if i + 1 < len(stages) and stages[i + 1].plain:
            yield from (Shortcut(writer.layer, "out", writer.positions) for writer, _ in stage.writers)


def _table(member: Member) -> np.ndarray:
    """(units, n) positions of each unit, ascending; units own equally many."""
    units = int(member.units.max()) + 1
    return member.positions[np.argsort(member.units, kind="stable")].reshape(units, -1)


def _paired(outputs: np.ndarray, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both (units, n): in order, as after flattening; of more outputs than inputs several share an input."""
    length = max(outputs.shape[1], inputs.shape[1])
    repeated = inputs[:, np.arange(length) % inputs.shape[1]]  # queries, keys and values of a channel of a head
    return _stretched(outputs, length), repeated


def _stretched(table: np.ndarray, length: int) -> np.ndarray:
    return table[:, np.arange(length) * table.shape[1] // length]


def _squared_scales(norm: nn.Module, width: int) -> np.ndarray:
    """(width,) squares of what a norm multiplies its channels by, as far as weights alone say it.

    weight^2 / (variance + eps) of a batch norm; weight^2 of others, whose statistics are the image's.
    """
    weight, variance = getattr(norm, "weight", None), getattr(norm, "running_var", None)
    scales = np.ones(width) if weight is None else weight.detach().double().cpu().numpy() ** 2
    return scales if variance is None else scales / (variance.double().cpu().numpy() + getattr(norm, "eps", 0.0))


def _distinct(links: Sequence[Link]) -> list[Link]:
    """One link for each pair of layers, without the pairs that two groups share, as an attention's do."""
    by_layers: dict[tuple[str, str], list[Link]] = {}
    for link in links:
        by_layers.setdefault((link.writer, link.reader), []).append(link)
    found = []
    for (writer, reader), same in by_layers.items():
        pairs = np.concatenate([np.stack([link.outputs, link.inputs]) for link in same], axis=1)
        pairs, first = np.unique(pairs, axis=1, return_index=True)
        factors = np.concatenate([link.factors for link in same])[first]
        found.append(Link(writer, reader, pairs[0], pairs[1], factors))
    return found
