"""torch-pruning's graph by hand: index maps, walks and their limits, splits, chunks and slices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.dependency import index_mapping

from raybench.errors import NotSupported
from raybench.groups import dependency_graph, splits
from raybench.groups.dependency_graph import GuardedGraph, IndexMap, _concat, _flatten, _slice, _split, merged
from raybench.groups.splits import _pairs, coupled, unequal
from tests.pruning_nets import IMAGE, Branches, Chain


def mapped(function: Any, mapping: Any, index: list[int]) -> list[tuple[int, int]]:
    found = function(mapping, np.array(index), 10 * np.array(index))
    return list(zip(*(one.tolist() for one in found), strict=True))


def test_index_maps_of_the_library_as_arrays() -> None:
    window, back = (SimpleNamespace(offset=(2, 5), reverse=reverse) for reverse in (False, True))
    assert mapped(_concat, window, [0, 2]) == [(2, 0), (4, 20)]
    assert mapped(_concat, back, [1, 2, 4, 5]) == [(0, 20), (2, 40)]
    assert mapped(_split, window, [1, 2, 4, 5]) == [(0, 20), (2, 40)]
    assert mapped(_split, back, [0, 2]) == [(2, 0), (4, 20)]
    step, home = (SimpleNamespace(start=1, end=8, step=3, reverse=reverse) for reverse in (False, True))
    assert mapped(_slice, step, [0, 1, 2, 4, 7, 8, 10]) == [(0, 10), (1, 40), (2, 70)]
    assert mapped(_slice, home, [0, 2]) == [(1, 0), (7, 20)]
    flat = SimpleNamespace(_stride=3, reverse=False)
    assert mapped(_flatten, flat, [0, 2]) == [(0, 0), (1, 0), (2, 0), (6, 20), (7, 20), (8, 20)]


def test_maps_of_one_node_and_side_are_joined_and_the_first_root_counts() -> None:
    def index_map(node: object, handler: str, index: list[int], root: list[int]) -> IndexMap:
        return IndexMap(node, handler, np.array(index), np.array(root))

    a, b = object(), object()
    raw = [
        index_map(a, "out", [3, 1], [0, 1]), index_map(b, "out", [0], [5]), index_map(a, "in", [7], [2]),
        index_map(a, "out", [2, 1], [4, 3]),
    ]  # fmt: skip
    found = [(r.node, r.handler, r.index.tolist(), r.root.tolist()) for r in merged(raw)]
    assert found == [(a, "out", [1, 2, 3], [1, 4, 0]), (b, "out", [0], [5]), (a, "in", [7], [2])]


def graph_of(model: nn.Module, image: Tensor = IMAGE[:1]) -> GuardedGraph:
    return GuardedGraph(type(model).__name__).build(model.eval(), image, [])


def test_a_walk_lists_what_must_shrink_and_refuses_what_explodes(monkeypatch) -> None:
    model = Branches()
    graph, names = graph_of(model), {m: n for n, m in model.named_modules()}
    node = graph.module2node[model.left]
    out = graph.get_pruner_of_module(model.left).prune_out_channels
    walk = graph.walk(node, out, 3)
    assert (walk[0].node, walk[0].index.tolist(), walk[0].root.tolist()) == (node, [0, 1, 2], [0, 1, 2])
    layers = {names[r.node.module]: len(r.index) for r in merged(walk) if r.node.module in names}
    assert layers == {"left": 3, "norm": 3, "mix": 3, "head": 12}
    assert graph.max_index == 4 * 32
    assert graph.last
    total = sum(len(r.index) for r in walk)
    monkeypatch.setattr(dependency_graph, "MAX_INDICES", total)
    assert len(graph.walk(node, out, 3)) == len(walk)
    monkeypatch.setattr(dependency_graph, "MAX_INDICES", total - 1)
    explodes = r"^can't group Branches: the channel indices of left explode at \S+, near (head|mix)$"
    with pytest.raises(NotSupported, match=explodes):
        graph.walk(node, out, 3)
    monkeypatch.setattr(dependency_graph, "MAX_INDICES", 10**9)
    graph.max_index = 12
    assert len(graph.walk(node, out, 3)) == len(walk)
    graph.max_index = 11
    with pytest.raises(NotSupported, match=explodes):
        graph.walk(node, out, 3)


def test_a_graph_without_matrices_has_room(monkeypatch) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, requires_grad=True))

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * self.scale

    assert graph_of(Scale()).max_index == 4 * dependency_graph.MAX_INDICES


def test_errors_of_the_graph_are_told_and_those_of_the_network_passed_on(monkeypatch) -> None:
    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.last = "conv3"
        args[2](args[0], args[1])
        raise KeyError("inside")

    def forward(x: Tensor) -> Tensor:
        raise ValueError("its own")

    with pytest.raises(ValueError, match=r"^its own$"):
        graph_of(Chain(forward))
    model = Chain(torch.relu)
    monkeypatch.setattr(dependency_graph.DependencyGraph, "build_dependency", lambda self, m, x, run, note, **more: (
        note(run(m, x)), setattr(self, "last", "conv3"), {}["inside"],
    ))  # fmt: skip
    with pytest.raises(NotSupported) as caught:
        graph_of(model)
    assert str(caught.value) == ("can't group Chain: torch-pruning fails on its graph near conv3: KeyError: 'inside'")


def test_a_map_that_nobody_knows_is_refused_by_name() -> None:
    graph = graph_of(Chain(torch.relu))

    class Odd:
        reverse = False

    edge = SimpleNamespace(index_mapping=[None, Odd()], target=3)
    with pytest.raises(
        NotSupported, match=r"^can't group Chain: \w+ maps channels by Odd, which raybench doesn't follow$"
    ):
        graph._follow(edge, np.arange(3), np.arange(3))
    split = index_mapping._SplitIndexMapping((0, 4), reverse=True)
    concat = index_mapping._ConcatIndexMapping((2, 6), reverse=True)
    edge.index_mapping = [split, concat]
    assert graph._follow(edge, np.arange(8), np.arange(8))[0].tolist() == [0, 1, 2, 3]  # out of the concatenation first
    edge.index_mapping = [index_mapping._SplitIndexMapping((2, 6), reverse=False), None]
    assert graph._follow(edge, np.arange(8), np.arange(8))[1].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("most", [0, 2**27])
def test_neighbours_with_equal_keys_are_pairs(monkeypatch, most: int) -> None:
    """By marks where there is room, by sorting elsewhere."""
    monkeypatch.setattr(splits, "MOST_MARKS", most)
    keys, roots = np.array([0, 2, 0, 1, 2, 2, 0]), np.array([4, 1, 0, 3, 5, 0, 4])
    assert _pairs(keys, roots, 6).tolist() == [[0, 0, 1], [1, 4, 5]]
    assert _pairs(np.array([0, 1]), np.array([0, 1]), 2).tolist() == [[], []]


def a_split(sizes: list[int] | None = None, width: int = 12, size: int = 5) -> IndexMap:
    saved = {"_saved_self_sym_sizes": (2, width), "_saved_dim": 1, "_saved_split_size": size}
    grad_fn = SimpleNamespace(**saved, **({} if sizes is None else {"_saved_split_sizes": sizes}))
    edge = SimpleNamespace(index_mapping=[index_mapping._SplitIndexMapping((0, 1), reverse=False)])
    node = SimpleNamespace(type=ops.OPTYPE.SPLIT, grad_fn=grad_fn, dependencies=[edge], inputs=[])
    return IndexMap(node, "out", np.arange(width), np.arange(width))


def a_slice(start: int, end: int, step: int = 1, width: int = 12) -> IndexMap:
    grad_fn = SimpleNamespace(_saved_self_sym_sizes=(2, width), _saved_dim=1)
    edge = SimpleNamespace(index_mapping=[index_mapping._SliceIndexMapping(1, start, step, end, False)])
    cut = SimpleNamespace(start=start, end=end, step=step)
    node = SimpleNamespace(type=ops.OPTYPE.SLICE, grad_fn=grad_fn, dependencies=[edge], inputs=[], module=cut)
    return IndexMap(node, "out", np.arange(end - start), np.arange(end - start))


OPEN = 2**63 - 1
PARTED = {
    "sizes": (a_split([4, 8]), "the forward splits its channels into 4, 8; only equal parts can shrink"),
    "equal sizes": (a_split([6, 6]), ""),
    "by size": (a_split(), "the forward splits its channels into 5, 5, 2; only equal parts can shrink"),
    "equal by size": (a_split(size=4), ""),
    "half": (a_slice(0, 6), ""),
    "second half": (a_slice(6, 12), ""),
    "all": (a_slice(0, 12), ""),
    "third": (a_slice(4, 8), ""),
    "aligned size": (a_slice(2, 6), "the forward takes 2:6:1 of its 12 channels; only equal parts can shrink"),
    "odd size": (a_slice(0, 5), "the forward takes 0:5:1 of its 12 channels; only equal parts can shrink"),
    "nothing": (a_slice(4, 4), "the forward takes 4:4:1 of its 12 channels; only equal parts can shrink"),
    "every other": (a_slice(0, 12, 2), ""),
    "the others": (a_slice(1, 12, 2), ""),
    "too late": (a_slice(2, 12, 2), "the forward takes 2:12:2 of its 12 channels; only equal parts can shrink"),
    "not to the end": (a_slice(0, 11, 2), "the forward takes 0:11:2 of its 12 channels; only equal parts can shrink"),
    "step of five": (a_slice(0, 12, 5), "the forward takes 0:12:5 of its 12 channels; only equal parts can shrink"),
}


@pytest.mark.parametrize("name", PARTED)
def test_unequal_parts_are_described(name: str) -> None:
    one, why = PARTED[name]
    assert unequal([one]) == why
    assert unequal([a_split([6, 6]), one]) == why
    unmapped = SimpleNamespace(**{**vars(one.node), "dependencies": [SimpleNamespace(index_mapping=[None])]})
    assert unequal([IndexMap(unmapped, "out", one.index, one.root)]) == ""


def test_the_open_end_of_a_slice_is_its_width() -> None:
    one = a_slice(0, 12)
    for end, found in ((2**63, 12), (2**63 - 1, 12), (99, 12), (7, 7)):
        one.node.module.end = end
        assert splits._slice(one.node) == (0, found, 1, 12)


@pytest.mark.parametrize(("dim", "axis"), [(1, 1), (2**64 - 1, 1), (2**64 - 2, 0), (0, 0)])
def test_negative_axes_of_splits(dim: int, axis: int) -> None:
    one = a_split()
    one.node.grad_fn._saved_dim = dim
    assert splits._axis(one.node) == axis


def test_channels_of_equal_parts_are_coupled_and_others_left_alone() -> None:
    one = a_split([4, 4, 4])
    found = coupled([one])
    assert found[0].root.tolist() == [0, 1, 2, 3] * 3
    assert (found[0].node, found[0].handler, found[0].index.tolist()) == (one.node, "out", list(range(12)))
    plain = IndexMap(SimpleNamespace(type=None, dependencies=[], inputs=[]), "out", np.arange(4), np.arange(4))
    assert coupled([plain])[0] is plain
    twice = [plain, IndexMap(plain.node, "out", np.arange(4), np.array([2, 3, 0, 1]))]
    assert [r.root.tolist() for r in coupled(twice)] == [[0, 1, 0, 1], [0, 1, 0, 1]]
    other_side = [plain, IndexMap(plain.node, "in", np.arange(4), np.array([2, 3, 0, 1]))]
    assert coupled(other_side)[1].root.tolist() == [2, 3, 0, 1]
    for start, end, step, roots in ((0, 6, 1, [*range(6)] * 2), (0, 12, 3, [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3)):
        cut = a_slice(start, end, step)
        cut.node.inputs = [plain.node]
        source = IndexMap(plain.node, "out", np.arange(12), np.arange(12))
        assert coupled([source, cut])[0].root.tolist() == roots
