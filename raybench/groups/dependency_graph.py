"""torch-pruning's dependency graph, built once with a time limit and walked with index arrays.

The library walks its graph with one Python object per channel index, derives every index mapping again for each
group and merges in quadratic time. The graph does not change while groups are listed, so it is walked here
with numpy arrays over the same edges and mappings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch_pruning as tp
from torch import Tensor, nn
from torch_pruning.dependency import DependencyGraph, index_mapping
from torch_pruning.dependency.node import Node

from raybench.errors import NotSupported

MAX_SECONDS = 10.0  # of this thread's CPU time; the slowest supported net (densenet121 at 224 px) takes under two
MAX_INDICES = 50_000_000  # channel indices per group, 16 bytes each


@dataclass(frozen=True)
class IndexMap:
    """Where the root's channels lie in one node of a group: channel `index[i]` is the root's channel `root[i]`."""

    node: Node
    handler: Callable[..., Any]
    index: np.ndarray  # (m,) int64
    root: np.ndarray  # (m,) int64


class GuardedGraph(DependencyGraph):
    """The library's graph with limits on time and size; exceeding one raises NotSupported with model and module."""

    def __init__(self, model_name: str, max_seconds: float = MAX_SECONDS) -> None:
        super().__init__()
        self.model_name, self.max_seconds = model_name, max_seconds
        self.deadline = time.thread_time() + max_seconds
        self.output_nodes: set[Any] = set()  # autograd nodes that produce the model's outputs
        self.max_index = 0  # every channel index is below it
        self.last = ""  # the layer whose width was inferred last

    def build(self, model: nn.Module, example: Tensor, ignored: list[nn.Parameter]) -> GuardedGraph:
        """Trace `model` on `example`; `ignored`: parameters outside known layers that join no group.

        Raises:
            NotSupported: the library fails on the graph. Errors of the model's own forward are passed on.
        """
        ran = False
        weights = [p.shape for p in model.parameters() if p.dim() > 1]
        self.max_index = 4 * max((max(shape) for shape in weights), default=MAX_INDICES)  # the widest layer, with room

        def remember(output: Any) -> Any:
            nonlocal ran
            ran = True
            self.output_nodes = {o.grad_fn for o in tp.utils.flatten_as_list(output)}
            return output

        try:
            self.build_dependency(
                model, example, lambda net, image: net(image), remember, ignored_params=ignored, verbose=False
            )
        except NotSupported:
            raise
        except Exception as error:
            if not ran:
                raise
            where = f" near {self.last}" if self.last else ""
            raise NotSupported(
                f"can't group {self.model_name}: torch-pruning fails on its graph{where}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return self

    def get_out_channels(self, module_or_node: Any) -> int | None:
        """As the library's, after a check of the time limit: shape inference recurses through here."""
        self.check_time(module_or_node)
        return super().get_out_channels(module_or_node)

    def get_in_channels(self, module_or_node: Any) -> int | None:
        """As the library's, after a check of the time limit."""
        self.check_time(module_or_node)
        return super().get_in_channels(module_or_node)

    def check_time(self, where: Any) -> None:
        """Raise NotSupported when tracing has exceeded the time limit."""
        if isinstance(where, Node) and where._name:
            self.last = where._name
        if time.thread_time() > self.deadline:
            near = f", near {self.last}" if self.last and self.last != self.name_of(where) else ""
            raise NotSupported(
                f"can't group {self.model_name}: tracing its channels took more than {self.max_seconds:.0f} s "
                f"and was stopped at {self.name_of(where)}{near}"
            )

    def name_of(self, where: Any) -> str:
        """Qualified name of a node or module; of an operation its representation."""
        nodes = getattr(self, "module2node", {})  # absent before the graph is built
        node = where if isinstance(where, Node) else nodes.get(where)
        return (node._name or repr(node.module)) if node is not None else type(where).__name__

    def walk(self, node: Node, handler: Callable[..., Any], channels: int) -> list[IndexMap]:
        """List all nodes that must shrink when `handler` removes channels of `node`, root first.

        `channels`: width of that side of the root. A node that is reached on several paths has several maps; `merged`
        joins them.
        """
        everything = np.arange(channels)
        found: dict[tuple[int, Any], list[IndexMap]] = {}
        first = IndexMap(node, handler, everything, everything)
        found[id(node), handler] = [first]
        stack, total = [first], channels
        while stack:
            here = stack.pop()
            self.check_time(here.node)
            for edge in here.node.dependencies:
                if edge.trigger != here.handler:
                    continue
                index, root = self._follow(edge, here.index, here.root)
                if not len(index):
                    continue
                there = found.setdefault((id(edge.target), edge.handler), [])
                if any(np.array_equal(r.index, index) and np.array_equal(r.root, root) for r in there):
                    continue
                total += len(index)
                if total > MAX_INDICES or index.max() >= self.max_index:
                    raise NotSupported(
                        f"can't group {self.model_name}: the channel indices of {self.name_of(node)} explode at "
                        f"{self.name_of(edge.target)}, near {self.last}"
                    )
                index_map = IndexMap(edge.target, edge.handler, index, root)
                there.append(index_map)
                stack.append(index_map)
        ignored = {id(parameter) for parameter in self.ignored_params}
        return [r for index_maps in found.values() for r in index_maps if id(r.node.module) not in ignored]

    def _follow(self, edge: Any, index: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = edge.index_mapping
        back = first is not None and second is not None and first.reverse and second.reverse
        for mapping in (second, first) if back else (first, second):  # out of the concatenation, then of the split
            if mapping is not None:
                if type(mapping) not in MAPPINGS:
                    raise NotSupported(
                        f"can't group {self.model_name}: {self.name_of(edge.target)} maps channels by "
                        f"{type(mapping).__name__}, which raybench doesn't follow"
                    )
                index, root = MAPPINGS[type(mapping)](mapping, index, root)
        return index, root


def merged(raw: Sequence[IndexMap]) -> list[IndexMap]:
    """Join the index maps of one walk that belong to the same node and side."""
    places: dict[tuple[int, Any], list[IndexMap]] = {}
    for index_map in raw:
        places.setdefault((id(index_map.node), index_map.handler), []).append(index_map)
    return [_merge(index_maps) for index_maps in places.values()]


def _merge(index_maps: list[IndexMap]) -> IndexMap:
    """Join maps of the same node and side; the first root channel found for a channel counts, as in the library."""
    if len(index_maps) == 1:
        index, root = index_maps[0].index, index_maps[0].root
    else:
        index, root = (np.concatenate([getattr(r, a) for r in index_maps]) for a in ("index", "root"))
    index, first = np.unique(index, return_index=True)
    return IndexMap(index_maps[0].node, index_maps[0].handler, index, root[first])


Arrays = tuple[np.ndarray, np.ndarray]


def _flatten(mapping: Any, index: np.ndarray, root: np.ndarray) -> Arrays:
    """(N, C, H, W) -> (N, C*H*W): one channel becomes `stride` neighbours; or the reverse."""
    stride = mapping._stride
    if mapping.reverse:
        pairs = np.unique(np.stack([index // stride, root]), axis=1)
        return pairs[0], pairs[1]
    return (index[:, None] * stride + np.arange(stride)).ravel(), np.repeat(root, stride)


def _window(index: np.ndarray, root: np.ndarray, offset: Any) -> Arrays:
    inside = (index >= offset[0]) & (index < offset[1])
    return index[inside] - offset[0], root[inside]


def _concat(mapping: Any, index: np.ndarray, root: np.ndarray) -> Arrays:
    return _window(index, root, mapping.offset) if mapping.reverse else (index + mapping.offset[0], root)


def _split(mapping: Any, index: np.ndarray, root: np.ndarray) -> Arrays:
    return (index + mapping.offset[0], root) if mapping.reverse else _window(index, root, mapping.offset)


def _slice(mapping: Any, index: np.ndarray, root: np.ndarray) -> Arrays:
    if mapping.reverse:
        return index * mapping.step + mapping.start, root
    inside = (index >= mapping.start) & (index < mapping.end) & ((index - mapping.start) % mapping.step == 0)
    return (index[inside] - mapping.start) // mapping.step, root[inside]


MAPPINGS: dict[type, Callable[[Any, np.ndarray, np.ndarray], Arrays]] = {
    index_mapping._FlattenIndexMapping: _flatten,
    index_mapping._ConcatIndexMapping: _concat,
    index_mapping._SplitIndexMapping: _split,
    index_mapping._SliceIndexMapping: _slice,
}
