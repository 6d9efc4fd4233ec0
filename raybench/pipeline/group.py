"""Model + example input -> `Groups`: which channels of which layers can only be removed together, as plain data.

torch-pruning's dependency graph is built once (`group_walk`); what comes out of here holds no module, tensor or
library object, so everything after this room works on arrays and names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported, UserError, nearest
from raybench.pipeline.attention import attentions, normalises_heads, plainly
from raybench.pipeline.group_flow import check_cut, check_flow
from raybench.pipeline.group_members import Layers, check_folds, members_of
from raybench.pipeline.group_split import coupled, mend_splits, splits_of, unequal
from raybench.pipeline.group_walk import MAX_SECONDS, GuardedGraph, Reach, merged
from raybench.pipeline.records import Group, Groups, Member

PARTS = ("embed", "head-dim", "heads", "mlp")
DEFAULT_PARTS = ("embed", "head-dim", "mlp")  # MLP alone can't reach 4x; whole heads are coarse


def trace(
    model: nn.Module,
    example: Tensor,
    *,
    prune: tuple[str, ...] = (),
    classes: int | None = None,
    protect: Sequence[str] = (),
    max_seconds: float = MAX_SECONDS,
) -> Groups:
    """Every prunable group of `model`, in the order of `named_modules`.

    `example`: one batch as the model takes it (n, channels, height, width). `prune`: which parts of attention models
    may shrink, of embed, head-dim, heads, mlp; empty means the default; models without attention have none of these.
    `classes`: how many outputs the classifier must have. `protect`: qualified names of modules whose outputs keep
    their width, beside those in the model's own `protected_layers` and the layers that produce its output. The model
    is left as it was found.
    Raises NotSupported, naming model and module, when the graph can't be traced or runs away.
    """
    parts = _check_parts(prune)
    heads = attentions(model)
    with plainly(model), _trainable(model), torch.enable_grad():
        layers = Layers.of(model)
        graph = GuardedGraph(type(model).__name__, max_seconds)
        with layers.note_shapes():
            graph.build(model, example, layers.uncuttable_parameters(heads, parts))
        mend_splits(graph)
        layers.check_traced(graph)
        _check_classes(layers, graph, classes)
        protected = layers.resolve((*protect, *getattr(model, "protected_layers", ())))
        groups, kept_whole, split = [], [], []
        seen: set[str] = set()
        for name, module in layers.roots():
            if name in seen or module not in graph.module2node:
                continue
            if name in protected:  # not walked: the inside of what is protected may be beyond the library
                kept_whole.append(name)
                continue
            attention = name.rpartition(".")[0] if name.rpartition(".")[2] == "qkv" else ""
            attention = attention if attention in heads else ""
            if attention and normalises_heads(heads[attention]):
                kept_whole.append(name)
                layers.tell_whole([name], (), "its queries and keys are normalised over the width of a head")
                continue
            reaches = _reaches(graph, heads[attention] if attention else None, module)
            outs = [layers.name(r.node.module) for r in reaches if layers.shrinks_output(graph, r)]
            seen.update(outs)
            uncuttable, why = layers.uncuttable(reaches)
            if not (uncuttable or attention) and (why := unequal(reaches)):
                uncuttable = outs[:1]
            if uncuttable:
                layers.tell_whole(uncuttable, outs, why)
            if uncuttable or protected.intersection(outs) or _reaches_output(graph, reaches):
                kept_whole.extend((*outs, *uncuttable))
                continue
            split += [name] if splits_of(reaches) and not attention else []
            members = members_of(layers, graph, reaches)
            found = _split(name, members, heads, attention, parts)
            check_folds(graph.model_name, found)
            groups.extend(group for group in found if group.size > group.least)
            if all(group.size <= group.least for group in found):
                kept_whole.extend(outs)
                _tell_grouped(layers, members, outs)
        if not groups:
            raise NotSupported(f"{type(model).__name__} has no group of channels that can be pruned")
        found = Groups(tuple(groups), tuple(dict.fromkeys(kept_whole)))
        check_flow(model, example, found, layers.shapes)
        if split:
            check_cut(model, example, found, split)
    return found


def _check_parts(prune: Sequence[str]) -> tuple[str, ...]:
    for part in prune:
        if part not in PARTS:
            raise UserError(f"prune: unknown part {part!r}.{nearest(part, PARTS)} Known: {', '.join(PARTS)}")
    return tuple(prune) or DEFAULT_PARTS


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """Every parameter requires a gradient while tracing: frozen ones are invisible to the graph."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _reaches(graph: GuardedGraph, attention: nn.Module | None, module: nn.Module) -> list[Reach]:
    """The walk from a layer's output; from the input of `proj` for an attention, where q, k and v have met."""
    if attention is None:
        pruner, node = graph.get_pruner_of_module(module), graph.module2node[module]
        return merged(coupled(graph.walk(node, pruner.prune_out_channels, pruner.get_out_channels(module))))
    pruner = graph.get_pruner_of_module(attention.proj)
    node = graph.module2node[attention.proj]
    return merged(graph.walk(node, pruner.prune_in_channels, attention.proj.in_features))


def _reaches_output(graph: GuardedGraph, reaches: Sequence[Reach]) -> bool:
    """Whether these channels are the model's own outputs (a layer's result, or through element-wise operations)."""
    return any(
        type(r.node.module).__name__ == "_OutputOp"
        or (r.node.grad_fn in graph.output_nodes and graph.is_out_channel_pruning_fn(r.handler))
        for r in reaches
    )


def _check_classes(layers: Layers, graph: GuardedGraph, classes: int | None) -> None:
    """UserError when a layer that directly produces the output has another width than the data has classes."""
    if classes is None:
        return
    for node in graph.module2node.values():
        width = getattr(node.module, "out_features", getattr(node.module, "out_channels", None))
        if node.grad_fn in graph.output_nodes and isinstance(node.module, nn.Linear) and width != classes:
            raise UserError(
                f"{layers.name(node.module)}, which produces the output of {graph.model_name}, has {width} outputs; "
                f"the data has {classes} classes"
            )


def _split(
    root: str, members: list[Member], heads: dict[str, nn.Module], attention: str, parts: tuple[str, ...]
) -> list[Group]:
    """One walk's members as groups: one for channels, up to two (heads, head width) for an attention."""
    if attention:
        width, count = heads[attention].proj.in_features, heads[attention].num_heads
        dims = width // count
        units = {"heads": np.arange(width) // dims, "head-dim": np.arange(width) % dims}
        sizes = {"heads": count, "head-dim": dims}
        tables = {"heads": _bias_tables(attention, heads[attention]), "head-dim": ()}
        return [
            Group(f"{root}:{part}", sizes[part], _regroup(members, units[part]) + tables[part], part)
            for part in ("heads", "head-dim")
            if part in parts
        ]
    part = _part(members, heads)
    if part != "channels" and part not in parts:
        return []
    folds, least = _folds(members)
    size = int(max(m.units.max() for m in members)) + 1
    units = np.arange(size) % (size // folds)
    return [Group(root, size // folds, _regroup(members, units), part, least)]


def _bias_tables(name: str, attention: nn.Module) -> tuple[Member, ...]:
    """Swin's relative position bias, (positions, heads), loses a column with each head."""
    if not isinstance(getattr(attention, "relative_position_bias_table", None), nn.Parameter):
        return ()
    each = np.arange(attention.num_heads)
    return (Member(f"{name}.relative_position_bias_table", "parameter", "out", len(each), each, each),)


def _regroup(members: list[Member], unit_of_root: np.ndarray) -> tuple[Member, ...]:
    return tuple(Member(m.layer, m.kind, m.side, m.width, m.positions, unit_of_root[m.units], m.folds) for m in members)


def _part(members: list[Member], heads: dict[str, nn.Module]) -> str:
    """Where in an attention model these channels live; `channels` everywhere else."""
    if not heads:
        return "channels"
    layers = {(m.layer, m.side) for m in members}
    if any((f"{name}.proj", "out") in layers for name in heads):
        return "embed"
    outs = [m for m in members if m.side == "out" and m.kind in ("conv", "linear", "depthwise")]
    return "mlp" if [m.kind for m in outs] == ["linear"] else "channels"


def _tell_grouped(layers: Layers, members: Sequence[Member], outs: Sequence[str]) -> None:
    """Say which grouped convolutions, if any, have so few channels a group that none of them can go."""
    few = {m.layer: m.width // m.folds for m in members if m.kind == "conv" and m.folds > 1}
    if few:
        each = " and ".join(f"{name} has {count} channels in each of its groups" for name, count in few.items())
        layers.tell_whole(list(few), outs, f"{each}, and two must stay".replace(" 1 channels", " 1 channel"))


def _folds(members: list[Member]) -> tuple[int, int]:
    """(how many channels of the root make one unit, units that must stay).

    Grouped convolutions and group norms must lose the same channel of every one of their groups; a grouped
    convolution with one channel a group would be another operation, so two stay.
    """
    grouped = [m for m in members if m.folds > 1]
    least = 2 if any(m.kind == "conv" for m in grouped) else 1
    return max((m.folds for m in grouped), default=1), least
