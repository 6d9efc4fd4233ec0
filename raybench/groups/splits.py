"""Splits, chunks and slices of channels: corrects the library's index mappings and couples equal parts.

A forward pass splits its tensors again on every call: `chunk(2)` of fewer channels still makes two equal parts. So
the same channel must be removed from every part, as from every group of a grouped convolution; where two parts are
multiplied (GLU) it must be in any case. Parts of unequal size are numbers in the network's code and can't change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch_pruning import ops
from torch_pruning.dependency import index_mapping, shape_infer
from torch_pruning.dependency.node import Node

from raybench.groups.dependency_graph import GuardedGraph, IndexMap
from raybench.groups.labels import united

ENDLESS = 2**63  # the open end of a slice
MOST_MARKS = 2**27  # bytes


def mend_splits(graph: GuardedGraph) -> None:
    """Set the offsets of each split's parts and each concatenation's inputs from what autograd recorded.

    The library numbers a split's parts in the order in which it visits them, and takes a slice to be as wide as
    the tensor that it was cut from.
    """
    for node in graph.module2node.values():
        if node.type == ops.OPTYPE.SPLIT and node.enable_index_mapping and _splits_channels(graph, node):
            _number_parts(node)
        elif node.type == ops.OPTYPE.CONCAT and node.enable_index_mapping:
            _place_inputs(node)


def _splits_channels(graph: GuardedGraph, split: Node) -> bool:
    """Whether the split axis holds channels: the second of two or four axes, the last of a sequence of tokens."""
    if split.module.offsets is not None or not hasattr(split.grad_fn, "_saved_self_sym_sizes"):
        return split.module.offsets is not None
    axis, width = _axis(split), split.grad_fn._saved_self_sym_sizes[_axis(split)]
    last = axis == len(split.grad_fn._saved_self_sym_sizes) - 1
    return last and any(shape_infer.infer_out_channels_recursively(graph, n, [0]) == width for n in split.inputs)


def _axis(split: Node) -> int:
    axis = split.grad_fn._saved_dim  # a negative axis is stored as unsigned 64-bit
    return (axis - 2 * ENDLESS if axis >= ENDLESS else axis) % len(split.grad_fn._saved_self_sym_sizes)


def _number_parts(split: Node) -> None:
    ends = np.cumsum([0, *_parts(split)]).tolist()
    for target in {id(node): node for node in split.outputs}.values():
        parts = [part for function, part in target.grad_fn.next_functions if function is split.grad_fn]
        there = [edge for edge in split.dependencies if edge.target is target]
        back = [edge for edge in target.dependencies if edge.target is split]
        if not len(parts) == len(there) == len(back):
            continue  # the target runs several times
        for part, forth, home in zip(parts, there, back, strict=True):
            forth.index_mapping[0] = index_mapping._SplitIndexMapping(ends[part : part + 2], reverse=False)
            home.index_mapping[0] = index_mapping._SplitIndexMapping(ends[part : part + 2], reverse=True)


def _place_inputs(cat: Node) -> None:
    """Set the offsets of the inputs of a concatenation of channels from the widths that autograd recorded."""
    links, shape, axis = cat.grad_fn.next_functions, cat.grad_fn._input_metadata[0].shape, cat.grad_fn._saved_dim
    if len(shape) == 3 or axis != 1 or len(links) != len(cat.inputs) or any(f is None for f, _ in links):
        return  # tokens, or constants between the channels
    if any(not hasattr(function, "_input_metadata") for function, _ in links):
        return
    sizes = [function._input_metadata[part].shape[axis] for function, part in links]
    ends = np.cumsum([0, *sizes]).tolist()
    seen: dict[int, int] = {}
    for i, source in enumerate(cat.inputs):
        again = seen[id(source)] = seen.get(id(source), -1) + 1
        back = [edge for edge in cat.dependencies if edge.target is source]
        there = [edge for edge in source.dependencies if edge.target is cat]
        if len(back) > again < len(there):
            back[again].index_mapping[1] = index_mapping._ConcatIndexMapping(ends[i : i + 2], reverse=True)
            there[again].index_mapping[1] = index_mapping._ConcatIndexMapping(ends[i : i + 2], reverse=False)


def _parts(node: Node) -> list[int]:
    """Sizes of all parts of a split, used or not."""
    sizes = getattr(node.grad_fn, "_saved_split_sizes", None)
    if sizes is None:
        width, size = node.grad_fn._saved_self_sym_sizes[_axis(node)], node.grad_fn._saved_split_size
        sizes = [min(size, width - start) for start in range(0, width, size)]
    return list(sizes)


def _slice(node: Node) -> tuple[int, int, int, int]:
    """(start, end, step, channels of the sliced tensor)."""
    width, cut = node.grad_fn._saved_self_sym_sizes[node.grad_fn._saved_dim], node.module
    return cut.start, min(cut.end, width) if cut.end < ENDLESS else width, cut.step, width


def splits_of(index_maps: Sequence[IndexMap]) -> list[IndexMap]:
    """The index maps of a walk that lie at a split or slice of channels."""
    return [r for r in index_maps if r.node.type in (ops.OPTYPE.SPLIT, ops.OPTYPE.SLICE) and _is_mapped(r.node)]


def _is_mapped(node: Node) -> bool:
    known = (index_mapping._SplitIndexMapping, index_mapping._SliceIndexMapping)
    return any(type(edge.index_mapping[0]) in known for edge in node.dependencies)


def unequal(index_maps: Sequence[IndexMap]) -> str:
    """Describe the split or slice that divides a walk's channels into unequal parts; empty where there is none."""
    for node in (index_map.node for index_map in splits_of(index_maps)):
        if node.type == ops.OPTYPE.SPLIT:
            sizes = _parts(node)
            if len(set(sizes)) > 1:
                return f"the forward splits its channels into {', '.join(map(str, sizes))}; only equal parts can shrink"
        else:
            start, end, step, width = _slice(node)
            size = (end - start) if step == 1 else step
            aligned = size > 0 and not width % size
            if not aligned or (step == 1 and start % size) or (step > 1 and (start >= step or end < width)):
                return f"the forward takes {start}:{end}:{step} of its {width} channels; only equal parts can shrink"
    return ""


def coupled(raw: Sequence[IndexMap]) -> list[IndexMap]:
    """Couple root channels that can only be removed together, and renumber the roots where there are any.

    Coupled are channels that share a position (the halves of a GLU), and the same channel of each part of a split.
    """
    size = int(max(index_map.root.max() for index_map in raw)) + 1
    pairs = [_pairs(keys, roots, size) for keys, roots in _meetings(raw)]
    if not any(found.size for found in pairs):
        return list(raw)
    unit = np.unique(united(size, np.concatenate(pairs, axis=1)), return_inverse=True)[1]
    return [IndexMap(r.node, r.handler, r.index, unit[r.root]) for r in raw]


def _meetings(raw: Sequence[IndexMap]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(keys, roots) arrays: roots with equal keys are coupled."""
    places: dict[tuple[int, Any], list[IndexMap]] = {}
    for index_map in raw:
        places.setdefault((id(index_map.node), index_map.handler), []).append(index_map)
    joined = {key: _joined(index_maps) for key, index_maps in places.items()}
    yield from (both for key, both in joined.items() if len(places[key]) > 1)
    for index_map in splits_of(raw):
        node = index_map.node
        if node.type == ops.OPTYPE.SPLIT:
            index, root = joined[id(node), index_map.handler]
            yield index % _parts(node)[0], root
            continue
        start, end, step, _ = _slice(node)
        for (place, _), (index, root) in joined.items():
            if any(place == id(source) for source in node.inputs):
                yield (index % (end - start) if step == 1 else index // step), root


def _joined(index_maps: Sequence[IndexMap]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([r.index for r in index_maps]), np.concatenate([r.root for r in index_maps])


def _pairs(keys: np.ndarray, roots: np.ndarray, size: int) -> np.ndarray:
    """(2, m): neighbours among the roots, numbers below `size`, that have the same key."""
    span = int(keys.max()) + 1
    if span * size <= MOST_MARKS:  # marking them takes a tenth of the time of sorting them
        marks = np.zeros(span * size, dtype=bool)
        marks[keys * size + roots] = True
        keys, roots = np.divmod(np.flatnonzero(marks), size)
    else:
        keys, roots = np.divmod(np.unique(keys * size + roots), size)
    meet = keys[1:] == keys[:-1]
    both = np.unique(roots[:-1][meet] * size + roots[1:][meet])
    return np.stack(np.divmod(both, size))
