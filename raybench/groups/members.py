"""Turns a walk over the dependency graph into `Member` records: names, kinds, sides and positions of layers."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from raybench.errors import NotSupported, UserError, counted, with_article
from raybench.groups.attention import Attention
from raybench.groups.dependency_graph import GuardedGraph, IndexMap
from raybench.groups.hooks import hooked
from raybench.groups.layer_types import CONVOLUTIONS, NORMS
from raybench.groups.records import Group, LayerKind, Member, Side

ROOTS = (*CONVOLUTIONS, nn.Linear)
UNCUTTABLE = (nn.MultiheadAttention, nn.Embedding, nn.LSTM, nn.PReLU, nn.Bilinear, nn.RNN, nn.GRU)


def named(model: nn.Module, patterns: Sequence[str], option: str) -> set[str]:
    """Names of all modules that `patterns` name, by name or glob (`layer1.*.conv2`).

    Raises:
        UserError: a pattern that no module has; `option` is the word under which it was given.
    """
    known = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        here = [name for name in known if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not here:
            near = difflib.get_close_matches(str(pattern), known, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
            raise UserError(f"{option}: {type(model).__name__} has no module {pattern!r}.{hint}")
        found.update(here)
    return found


@dataclass
class Layers:
    """The layers of one model by name, with the shapes of their outputs while tracing."""

    model: nn.Module
    names: Mapping[nn.Module | nn.Parameter, str]
    shapes: dict[str, list[torch.Size]] = field(default_factory=dict)  # layer -> output shapes, call by call
    tied: Mapping[str, str] = field(default_factory=dict)  # layers that share a parameter with another -> its name
    whole: list[tuple[tuple[str, ...], tuple[str, ...], str]] = field(default_factory=list)  # (layers, others, why)

    @classmethod
    def of(cls, model: nn.Module) -> Layers:
        """Index the modules and parameters of `model` by identity."""
        names = {module: name for name, module in model.named_modules()}
        names |= {parameter: name for name, parameter in model.named_parameters()}
        return cls(model, names, tied=_tied(model))

    def name(self, module: nn.Module | nn.Parameter) -> str:
        """Qualified name; empty for operations, which aren't modules of the model."""
        return self.names.get(module, "")

    def roots(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, layer) of all layers that can be the root of a group, in the order of `named_modules`."""
        return ((name, module) for name, module in self.model.named_modules() if isinstance(module, ROOTS))

    @contextmanager
    def note_shapes(self) -> Iterator[None]:
        """Record the output shape at each call of every layer that could be pruned."""
        with hooked(
            module.register_forward_hook(lambda m, i, o, name=name: self.shapes.setdefault(name, []).append(o.shape))
            for name, module in self.roots()
        ):
            yield

    def check_traced(self, graph: GuardedGraph) -> None:
        """Raise NotSupported, naming them, for layers that ran but are missing in autograd's graph."""
        lost = [name for name, module in self.roots() if name in self.shapes and module not in graph.module2node]
        if lost:
            raise NotSupported(
                f"can't group {graph.model_name}: {', '.join(lost[:5])} ran but can't be reached from the output "
                "through autograd (detached, or under no_grad)"
            )

    def resolve(self, patterns: Sequence[str], option: str = "protect") -> set[str]:
        """Names of all modules at or below those that `patterns` name, by name or glob (`layer1.*.conv2`).

        Raises:
            UserError: a pattern that no module has; `option` is the word under which it was given.
        """
        known = [name for name, _ in self.model.named_modules() if name]
        found = named(self.model, patterns, option)
        return {k for k in known if any(k[: len(name)] == name and k[len(name) :][:1] in ("", ".") for name in found)}

    def uncuttable_parameters(self, heads: Mapping[str, Attention]) -> list[nn.Parameter]:
        """Bias tables indexed by head, which the library would couple with all of qkv; they are cut with the heads."""
        tables = (getattr(module, "relative_position_bias_table", None) for module in heads.values())
        return [table for table in tables if isinstance(table, nn.Parameter)]

    def shrinks_output(self, graph: GuardedGraph, index_map: IndexMap) -> bool:
        """Whether `index_map` is the output side of a layer that can be a root."""
        return isinstance(index_map.node.module, ROOTS) and graph.is_out_channel_pruning_fn(index_map.handler)

    def uncuttable(self, index_maps: Sequence[IndexMap]) -> tuple[list[str], str]:
        """(Names of the walk's layers that surgery can't cut, why); empty names where it can cut all."""
        modules = {self.name(r.node.module): r.node.module for r in index_maps}
        known = {name: m for name, m in modules.items() if isinstance(m, UNCUTTABLE) and _has_channel_weights(m)}
        if known:
            types = " or ".join(sorted({type(module).__name__ for module in known.values()}))
            return sorted(known), f"{with_article(types)} can't be cut"
        shared = {self.tied[name] for name in modules if name in self.tied}
        both = [name for name, parameter in self.tied.items() if parameter in shared]
        return both, f"they share {' and '.join(sorted(shared))}"

    def keep_whole(self, names: Sequence[str], outs: Sequence[str], why: str) -> None:
        """Note that the modules `names`, and with them the layers `outs`, keep their width, and why; once for each."""
        noted = {name for layers, others, _ in self.whole for name in (*layers, *others)}
        if not noted.issuperset((*names, *outs)):
            self.whole.append((tuple(names), tuple(name for name in outs if name not in names), why))


def _tied(model: nn.Module) -> dict[str, str]:
    """Layer (for a bare parameter its own name) -> name of a parameter that it shares with another module."""
    owners: dict[nn.Parameter, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        known = isinstance(module, (*ROOTS, *NORMS, *UNCUTTABLE))
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{name}.{attribute}" if name else attribute
            owners.setdefault(parameter, []).append((name if known else full, full))
    several = [places for places in owners.values() if len(places) > 1]
    return {layer: places[0][1] for places in several for layer, _ in places}


def _has_channel_weights(module: nn.Module) -> bool:
    return not (isinstance(module, nn.PReLU) and module.num_parameters == 1)


def members_of(layers: Layers, graph: GuardedGraph, index_maps: Sequence[IndexMap]) -> list[Member]:
    """The members of one walk, output sides in the model's order first; `units` are still channels of the root."""
    members = [member for index_map in index_maps if (member := _member(layers, graph, index_map)) is not None]
    order = {name: i for i, name in enumerate(layers.names.values())}
    members.sort(key=lambda m: (m.side != "out" or m.kind not in ("conv", "linear"), order[m.layer], m.side))
    return members


def _member(layers: Layers, graph: GuardedGraph, index_map: IndexMap) -> Member | None:
    module, name = index_map.node.module, layers.name(index_map.node.module)
    if not name:
        return None  # an operation: concatenation, addition, reshape
    kind: LayerKind
    side: Side
    width: int | None
    if isinstance(module, nn.Parameter):
        kind, side, width, folds = "parameter", "out", module.shape[index_map.node.pruning_dim], 1
    elif isinstance(module, CONVOLUTIONS):
        kind, side, width, folds = _convolution(graph, module, name, index_map)
    elif isinstance(module, nn.Linear):
        side = "out" if graph.is_out_channel_pruning_fn(index_map.handler) else "in"
        kind, width, folds = "linear", module.out_features if side == "out" else module.in_features, 1
    elif isinstance(module, NORMS):
        kind, side, width = "norm", "out", graph.get_out_channels(index_map.node)
        folds = module.num_groups if isinstance(module, nn.GroupNorm) else 1
    elif any(True for _ in module.parameters(recurse=False)):
        what = f"{name} is {with_article(type(module).__name__)}"
        raise NotSupported(f"can't group {graph.model_name}: {what}, which can't be cut")
    else:
        return None
    if width is None:
        return None
    if index_map.index[-1] >= width:
        raise NotSupported(
            f"can't group {graph.model_name}: {name} ({side}, {counted(width, 'channel')}) has no channel "
            f"{index_map.index[-1]}, which the graph couples; it doesn't follow a split or reshape before this layer"
        )
    index, root = index_map.index, index_map.root
    if side == "in" or kind == "norm":
        index, root = _merged_patches(layers, name, int(width), index, root)
    return Member(name, kind, side, int(width), index, root, folds)


def _merged_patches(
    layers: Layers, name: str, width: int, index: np.ndarray, root: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add the positions that Swin's PatchMerging gives to channel c of four neighbours: c, C+c, 2C+c and 3C+c.

    The library takes the reshape before it for an element-wise operation and finds only the first of the four.
    """
    parent = layers.model.get_submodule(name.rpartition(".")[0])
    if type(parent).__name__ != "PatchMerging" or width != 4 * len(index):
        return index, root
    return np.arange(width), np.tile(root, 4)


def _convolution(
    graph: GuardedGraph, conv: _ConvNd, name: str, index_map: IndexMap
) -> tuple[LayerKind, Side, int, int]:
    """(kind, side, width, folds) of a convolution."""
    if conv.groups > 1 and conv.groups == conv.out_channels:
        if conv.in_channels != conv.out_channels:
            raise NotSupported(
                f"can't group {graph.model_name}: {name} has {conv.groups} groups, {conv.in_channels} input and "
                f"{conv.out_channels} output channels"
            )
        return "depthwise", "out", conv.out_channels, 1
    if conv.groups > 1 and conv.groups == conv.in_channels:
        raise NotSupported(
            f"can't group {graph.model_name}: {name} makes {conv.out_channels // conv.groups} channels of each of its "
            f"{conv.in_channels}"
        )
    if conv.groups > 1 and conv.transposed:
        raise NotSupported(f"can't group {graph.model_name}: {name} is a grouped transposed convolution")
    if graph.is_out_channel_pruning_fn(index_map.handler):
        return "conv", "out", conv.out_channels, conv.groups
    return "conv", "in", conv.in_channels, conv.groups


def check_folds(model_name: str, groups: Sequence[Group]) -> None:
    """Raise NotSupported where a grouped layer would be left with groups of different widths.

    That happens when a unit owns other slots in one of the layer's groups than in the next.
    """
    for group in groups:
        for member in group.members:
            unit = np.full(member.width, -1)
            unit[member.positions] = member.units
            slots = unit.reshape(member.folds, -1)
            if (slots != slots[0]).any():
                raise NotSupported(
                    f"can't group {model_name}: the {member.folds} groups of {member.layer} would not stay equally wide"
                )
