"""The groups of a network by torch-pruning's dependency graph, which is built once and then walked from every layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raybench.errors import NotSupported, UserError, counted
from raybench.groups.attention import Attention, attentions, normalises_heads, plainly
from raybench.groups.dependency_graph import GuardedGraph, IndexMap, merged
from raybench.groups.flow import check_flow
from raybench.groups.members import Layers, check_folds, members_of
from raybench.groups.partition import partitioned
from raybench.groups.proof import refuted
from raybench.groups.records import Group, Groups, Member
from raybench.groups.restored import buffers_restored, gradients
from raybench.groups.splits import coupled, mend_splits, unequal

NAMED, OUTPUT = "named to keep its width", "it makes the network's output"
BESIDE = "coupled with"


def by_graph(
    model: nn.Module,
    example: Tensor,
    layers: Layers,
    parts: tuple[str, ...],
    classes: int | None,
    protected: set[str],
    max_seconds: float,
) -> Groups:
    """Find the groups of `model`; notes in `layers` what can't be cut, and why. The model isn't changed.

    Raises:
        NotSupported: the graph can't be built or followed, channels don't arrive where it says, or no group is left.
        UserError: a classifier with another number of outputs than `classes`.
    """
    heads = attentions(model)
    with plainly(model), _trainable(model), torch.enable_grad():
        graph = GuardedGraph(type(model).__name__, max_seconds)
        with layers.note_shapes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the library tries on the way
            graph.build(model, example, layers.uncuttable_parameters(heads))
            mend_splits(graph)
        layers.check_traced(graph)
        _check_classes(layers, graph, classes)
        grouping = _Grouping(layers, graph, heads, parts, protected)
        for name, module in layers.roots():
            grouping.add(name, module)
        groups = grouping.groups()
    why = refuted(model, example, groups)
    if why:
        raise NotSupported(f"can't group {type(model).__name__}: {why}")
    if why is None:
        with plainly(model):
            check_flow(model, example, groups, layers.shapes)
    return groups


class _Grouping:
    """Collects the groups of one traced model, root by root."""

    def __init__(
        self,
        layers: Layers,
        graph: GuardedGraph,
        heads: Mapping[str, Attention],
        parts: tuple[str, ...],
        protected: set[str],
    ) -> None:
        self.layers, self.graph, self.heads, self.parts, self.protected = layers, graph, heads, parts, protected
        self._found: list[Group] = []
        self._whole: dict[str, str] = {}  # layers that keep their width -> why
        self._seen: set[str] = set()  # layers that a walk from an earlier root has covered

    def groups(self) -> Groups:
        """All groups found; NotSupported when there are none."""
        if not self._found:
            raise NotSupported(f"{self.graph.model_name} has no group of channels that can be pruned")
        return Groups(tuple(self._found), tuple(self._whole), dict(self._whole))

    def _stay(self, names: Sequence[str], why: str) -> None:
        """Record that the layers `names` keep their width; the first reason counts."""
        for name in names:
            self._whole.setdefault(name, why)

    def add(self, name: str, module: nn.Module) -> None:
        """Follow the output channels of the layer `name` and add the groups that they form."""
        if name in self._seen or module not in self.graph.module2node:
            return
        if name in self.protected:  # not walked: the library may fail on what protected modules contain
            self._stay([name], NAMED)
            return
        attention = self._attention_of(name)
        if attention and normalises_heads(self.heads[attention]):
            why = "its queries and keys are normalised over the width of a head"
            self._stay([name], why)
            self.layers.keep_whole([name], (), why)
            return
        index_maps = _index_maps(self.graph, self.heads[attention] if attention else None, module)
        outs = [self.layers.name(r.node.module) for r in index_maps if self.layers.shrinks_output(self.graph, r)]
        self._seen.update(outs)
        if not self._stays_whole(index_maps, outs, attention):
            self._keep(name, index_maps, outs, attention)

    def _attention_of(self, name: str) -> str:
        """Name of the attention module whose `qkv` is `name`; empty for any other layer."""
        parent, _, own = name.rpartition(".")
        return parent if own == "qkv" and parent in self.heads else ""

    def _stays_whole(self, index_maps: Sequence[IndexMap], outs: Sequence[str], attention: str) -> bool:
        """Whether these channels can't be cut, are protected, or are the model's output; records their layers if so."""
        uncuttable, why = self.layers.uncuttable(index_maps)
        if not (uncuttable or attention) and (why := unequal(index_maps)):
            uncuttable = list(outs[:1])
        if uncuttable:
            self.layers.keep_whole(uncuttable, outs, why)
        elif self.protected.intersection(outs):
            why = f"{BESIDE} {', '.join(sorted(self.protected.intersection(outs))[:3])}, named to keep their width"
        elif _is_output(self.graph, index_maps):
            why = OUTPUT
        else:
            return False
        self._stay((*outs, *uncuttable), why)
        return True

    def _keep(self, name: str, index_maps: Sequence[IndexMap], outs: Sequence[str], attention: str) -> None:
        """Add the groups of one walk's channels, except those that are too small to lose a unit."""
        members = members_of(self.layers, self.graph, index_maps)
        found = partitioned(name, members, self.heads, attention, self.parts)
        check_folds(self.graph.model_name, found)
        self._found.extend(group for group in found if group.size > group.least)
        if all(group.size <= group.least for group in found):
            why = _keep_grouped(self.layers, members, outs)
            self._stay(outs, why or ("its part of the attention is not pruned" if not found else "it has one unit"))


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """Inside, every parameter requires a gradient: the graph doesn't contain frozen ones. The model is restored."""
    with buffers_restored(model):
        try:
            with gradients(model, True):
                yield
        finally:
            for module in model.modules():  # what a forward has kept, as biases of attention
                _detach(vars(module))


def _detach(kept: dict[str, Any]) -> None:
    """Cut tensors in `kept`, and in dicts in it, off from the graph that made them: torch copies no others."""
    for name, value in kept.items():
        if isinstance(value, Tensor) and value.grad_fn is not None:
            kept[name] = value.detach()
        elif type(value) is dict and not str(name).startswith("_"):
            _detach(value)


def _index_maps(graph: GuardedGraph, attention: Attention | None, module: nn.Module) -> list[IndexMap]:
    """The walk from a layer's output; for an attention from the input of `proj`, which depends on q, k and v."""
    if attention is None:
        pruner, node = graph.get_pruner_of_module(module), graph.module2node[module]
        return merged(coupled(graph.walk(node, pruner.prune_out_channels, pruner.get_out_channels(module))))
    pruner = graph.get_pruner_of_module(attention.proj)
    node = graph.module2node[attention.proj]
    return merged(graph.walk(node, pruner.prune_in_channels, attention.proj.in_features))


def _is_output(graph: GuardedGraph, index_maps: Sequence[IndexMap]) -> bool:
    """Whether these channels are the model's outputs, directly or through element-wise operations."""
    return any(
        type(r.node.module).__name__ == "_OutputOp"
        or (r.node.grad_fn in graph.output_nodes and graph.is_out_channel_pruning_fn(r.handler))
        for r in index_maps
    )


def _check_classes(layers: Layers, graph: GuardedGraph, classes: int | None) -> None:
    """Raise UserError when a linear layer that produces the output has another width than the number of classes."""
    if classes is None:
        return
    for node in graph.module2node.values():
        width = getattr(node.module, "out_features", getattr(node.module, "out_channels", None))
        if node.grad_fn in graph.output_nodes and isinstance(node.module, nn.Linear) and width != classes:
            raise UserError(
                f"{layers.name(node.module)}, which produces the output of {graph.model_name}, has "
                f"{counted(width or 0, 'output')}; the data has {counted(classes, 'class', 'classes')}"
            )


def _keep_grouped(layers: Layers, members: Sequence[Member], outs: Sequence[str]) -> str:
    """Note grouped convolutions that have too few channels per group to lose any; returns the reason, or nothing."""
    few = {m.layer: m.width // m.folds for m in members if m.kind == "conv" and m.folds > 1}
    if not few:
        return ""
    each = " and ".join(f"{name} has {counted(count, 'channel')} in each of its groups" for name, count in few.items())
    why = f"{each}, and two must stay"
    layers.keep_whole(list(few), outs, why)
    return why
