"""From a walk over the dependency graph to `Member` records: names, kinds, sides and positions of real layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from raybench.errors import NotSupported, UserError, nearest
from raybench.pipeline.group_walk import GuardedGraph, Reach
from raybench.pipeline.records import Group, Kind, Member, Side

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)
ROOTS = (*CONVOLUTIONS, nn.Linear)
UNCUTTABLE = (nn.MultiheadAttention, nn.Embedding, nn.LSTM, nn.PReLU, nn.Bilinear, nn.RNN, nn.GRU)


@dataclass
class Layers:
    """The layers of one model by name, and what shape each put out at every call while tracing."""

    model: nn.Module
    names: Mapping[nn.Module | nn.Parameter, str]
    shapes: dict[str, list[torch.Size]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)  # layers that share a parameter with another -> its name
    told: set[str] = field(default_factory=set)  # whose width has been said to stay

    @classmethod
    def of(cls, model: nn.Module) -> Layers:
        """Index the modules and parameters of `model` by identity."""
        names = {module: name for name, module in model.named_modules()}
        names |= {parameter: name for name, parameter in model.named_parameters()}
        return cls(model, names, tied=_tied(model))

    def name(self, module: nn.Module | nn.Parameter) -> str:
        """Qualified name; empty for operations that are no part of the model."""
        return self.names.get(module, "")

    def roots(self) -> Iterator[tuple[str, nn.Module]]:
        """Layers that can be the root of a group, in the model's own order."""
        return ((name, module) for name, module in self.model.named_modules() if isinstance(module, ROOTS))

    @contextmanager
    def note_shapes(self) -> Iterator[None]:
        """Note the output's shape at each call of every layer that could be pruned."""
        hooks = [
            module.register_forward_hook(lambda m, i, o, name=name: self.shapes.setdefault(name, []).append(o.shape))
            for name, module in self.roots()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def check_traced(self, graph: GuardedGraph) -> None:
        """NotSupported naming the layers that ran but that autograd's graph doesn't lead to."""
        lost = [name for name, module in self.roots() if name in self.shapes and module not in graph.module2node]
        if lost:
            raise NotSupported(
                f"can't group {graph.model_name}: {', '.join(lost[:5])} ran but can't be reached from the output "
                "through autograd (detached, or under no_grad)"
            )

    def resolve(self, protect: Sequence[str]) -> set[str]:
        """Names of all layers at or below the protected modules; UserError for a name the model doesn't have."""
        known = [name for name, _ in self.model.named_modules()]
        for name in protect:
            if name not in known:
                raise UserError(f"protect: {type(self.model).__name__} has no module {name!r}.{nearest(name, known)}")
        return {k for k in known if any(k == name or k.startswith(f"{name}.") for name in protect)}

    def uncuttable_parameters(self, heads: Mapping[str, nn.Module], parts: Sequence[str]) -> list[nn.Parameter]:
        """Bias tables indexed by head: the library would couple them with all of qkv. `heads` cuts them by name."""
        tables = (getattr(module, "relative_position_bias_table", None) for module in heads.values())
        return [table for table in tables if isinstance(table, nn.Parameter)]

    def shrinks_output(self, graph: GuardedGraph, reach: Reach) -> bool:
        """Whether `reach` is the output side of a layer that could be a root."""
        return isinstance(reach.node.module, ROOTS) and graph.is_out_channel_pruning_fn(reach.handler)

    def uncuttable(self, reaches: Sequence[Reach]) -> tuple[list[str], str]:
        """(Names of the layers on the walk that surgery can't cut, why); its group is then left whole."""
        met = {self.name(r.node.module): r.node.module for r in reaches}
        odd = {name: m for name, m in met.items() if isinstance(m, UNCUTTABLE) and _weighs(m)}
        if odd:
            return sorted(odd), f"a {' or '.join(sorted({type(m).__name__ for m in odd.values()}))} can't be cut"
        shared = {self.tied[name] for name in met if name in self.tied}
        both = [name for name, parameter in self.tied.items() if parameter in shared]
        return both, f"they share {' and '.join(sorted(shared))}"

    def tell_whole(self, names: Sequence[str], outs: Sequence[str], why: str) -> None:
        """Warn, once for all of them, that the modules `names`, and with them `outs`, keep their width, and why."""
        if self.told.issuperset((*names, *outs)):
            return
        self.told.update(names, outs)
        others = [name for name in outs if name not in names]
        beside = f", and with it {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}" if others else ""
        warnings.warn(
            f"{type(self.model).__name__}: {', '.join(names)} keeps its width{beside}: {why}", UserWarning, stacklevel=3
        )


def _tied(model: nn.Module) -> dict[str, str]:
    """Layers (bare parameters by their own names) that hold a parameter which another module holds, too -> its name."""
    owners: dict[nn.Parameter, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        known = isinstance(module, (*ROOTS, *NORMS, *UNCUTTABLE))
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{name}.{attribute}" if name else attribute
            owners.setdefault(parameter, []).append((name if known else full, full))
    several = [places for places in owners.values() if len(places) > 1]
    return {layer: places[0][1] for places in several for layer, _ in places}


def _weighs(module: nn.Module) -> bool:
    return not (isinstance(module, nn.PReLU) and module.num_parameters == 1)


def members_of(layers: Layers, graph: GuardedGraph, reaches: Sequence[Reach]) -> list[Member]:
    """The members of one walk, the model's earliest output side first; `units` still count the root's channels."""
    members = [member for reach in reaches if (member := _member(layers, graph, reach)) is not None]
    order = {name: i for i, name in enumerate(layers.names.values())}
    members.sort(key=lambda m: (m.side != "out" or m.kind not in ("conv", "linear"), order[m.layer], m.side))
    return members


def _member(layers: Layers, graph: GuardedGraph, reach: Reach) -> Member | None:
    module, name = reach.node.module, layers.name(reach.node.module)
    if not name:
        return None  # an operation: concatenation, addition, reshape
    if isinstance(module, nn.Parameter):
        kind, side, width, folds = "parameter", "out", module.shape[reach.node.pruning_dim], 1
    elif isinstance(module, CONVOLUTIONS):
        kind, side, width, folds = _convolution(graph, module, name, reach)
    elif isinstance(module, nn.Linear):
        side = "out" if graph.is_out_channel_pruning_fn(reach.handler) else "in"
        kind, width, folds = "linear", module.out_features if side == "out" else module.in_features, 1
    elif isinstance(module, NORMS):
        kind, side, width = "norm", "out", graph.get_out_channels(reach.node)
        folds = module.num_groups if isinstance(module, nn.GroupNorm) else 1
    elif any(True for _ in module.parameters(recurse=False)):
        raise NotSupported(f"can't group {graph.model_name}: {name} is a {type(module).__name__}, which can't be cut")
    else:
        return None
    if width is None:
        return None
    if reach.index[-1] >= width:
        raise NotSupported(
            f"can't group {graph.model_name}: {name} ({side}, {width} channels) is asked for channel "
            f"{reach.index[-1]}; the graph doesn't follow a split or reshape before it"
        )
    index, root = reach.index, reach.root
    if side == "in" or kind == "norm":
        index, root = _merged_patches(layers, name, int(width), index, root)
    return Member(name, kind, side, int(width), index, root, folds)


def _merged_patches(
    layers: Layers, name: str, width: int, index: np.ndarray, root: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Swin's PatchMerging lays four neighbours' channels side by side: channel c lies at c, C+c, 2C+c and 3C+c.

    The library sees the reshape before it as an element-wise operation and finds the first of the four only.
    """
    parent = layers.model.get_submodule(name.rpartition(".")[0])
    if type(parent).__name__ != "PatchMerging" or width != 4 * len(index):
        return index, root
    return np.arange(width), np.tile(root, 4)


def _convolution(graph: GuardedGraph, conv: nn.Module, name: str, reach: Reach) -> tuple[Kind, Side, int, int]:
    if conv.groups > 1 and conv.groups == conv.out_channels:
        if conv.in_channels != conv.out_channels:
            raise NotSupported(
                f"can't group {graph.model_name}: {name} has {conv.groups} groups, {conv.in_channels} input and "
                f"{conv.out_channels} output channels"
            )
        return "depthwise", "out", conv.out_channels, 1
    if conv.groups > 1 and conv.transposed:
        raise NotSupported(f"can't group {graph.model_name}: {name} is a grouped transposed convolution")
    side = "out" if graph.is_out_channel_pruning_fn(reach.handler) else "in"
    width = conv.out_channels if side == "out" else conv.in_channels
    return "conv", side, width, conv.groups


def check_folds(model_name: str, groups: Sequence[Group]) -> None:
    """NotSupported where a unit owns other slots in one of a grouped layer's groups than in the next.

    Such a layer would be left with groups of different widths.
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
