"""The parts of grouping by hand: attention modules, index maps, labels and rules that other ways of grouping hide."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raybench.errors import NotSupported
from raybench.groups.attention import attentions, is_attention
from raybench.groups.cost import _unknown_products
from raybench.groups.dependency_graph import GuardedGraph, _flatten
from raybench.groups.flow import _Flow, _replacement
from raybench.groups.labels import Labels


class Heads(nn.Module):
    def __init__(self, **without):
        super().__init__()
        parts = {"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8), "num_heads": 2, "scale": 0.5} | without
        for name, value in parts.items():
            setattr(self, name, value)


def test_attention_is_known_by_its_four_parts():
    assert is_attention(Heads())
    for name in ("qkv", "proj", "num_heads", "scale"):
        assert not is_attention(Heads(**{name: None}))
    assert list(attentions(nn.Sequential(nn.Linear(8, 8), Heads()))) == ["1"]


@pytest.mark.parametrize("reverse", [False, True])
def test_channels_become_neighbours_when_positions_are_flattened(reverse):
    mapping = SimpleNamespace(_stride=2, reverse=reverse)
    if reverse:
        index, root = _flatten(mapping, np.array([2, 3, 6, 7]), np.array([0, 0, 5, 5]))
        assert (index.tolist(), root.tolist()) == ([1, 3], [0, 5])
    else:
        index, root = _flatten(mapping, np.array([1, 3]), np.array([0, 5]))
        assert (index.tolist(), root.tolist()) == ([2, 3, 6, 7], [0, 0, 5, 5])


def test_labels_without_a_union_are_classes_of_their_own_and_the_first_is_pinned():
    labels = Labels()
    assert labels.fresh(3).tolist() == [1, 2, 3]
    classes, pinned = labels.classes()
    assert (classes.tolist(), pinned.tolist()) == ([0, 1, 2, 3], [True, False, False, False])
    labels.unite(np.array([1, 2]), np.array([3, 2]))
    assert labels.classes()[0].tolist() == [0, 1, 2, 1]


def test_products_below_a_module_that_nobody_counts_are_named_from_its_root():
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 4, 3))
    model.add_module("odd", nn.Sequential(nn.Identity(), nn.Linear(4, 4)))
    counted = {"Sequential": 100, "Sequential.stem": 50, "Sequential.odd": 50, "Sequential.odd.1": 20}
    assert _unknown_products(model, counted) == ["odd"]
    assert _unknown_products(model, counted | {"Sequential.odd": 20}) == []


def test_a_time_limit_names_where_tracing_was_stopped_and_the_layer_before():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    graph = GuardedGraph("Net").build(model, torch.zeros(1, 3, 8, 8), [])
    node = graph.module2node[model[0]]
    assert graph.name_of(node) == graph.name_of(model[0]) == node._name
    assert graph.name_of(3) == "int"
    graph.deadline, graph.last = 0.0, "before"
    with pytest.raises(NotSupported, match=r"and was stopped at int, near before$"):
        graph.check_time(3)
    with pytest.raises(NotSupported, match=rf"and was stopped at {node._name}$"):
        graph.check_time(node)


def test_marked_images_give_each_channel_a_level_and_each_place_a_pattern():
    flow = _flow({"layer": [(2, 3, 4, 4)]})
    out = flow.output("layer", 1)
    level, pattern = flow.levels["layer"], flow.patterns[1, 1, 4, 4]
    assert torch.equal(out, (level.view(1, 3, 1, 1) * pattern).expand(2, 3, 4, 4))
    assert 0.5 <= level.min() <= level.max() <= 1.0
    assert 0.2 <= pattern.min() <= pattern.max() <= 2.0
    vector = _flow({"layer": [(3,)]})
    assert torch.equal(vector.output("layer", 0), vector.levels["layer"] * vector.patterns[(1,)])


def test_norms_by_name_are_replaced_and_folders_of_layers_named_so_are_not():
    class MyNorm(nn.Module):
        pass

    class NormedBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

    flow = _flow({"layer": [(1, 3)]})
    assert _replacement("layer", MyNorm(), flow) is not None
    assert _replacement("layer", NormedBlock(), flow) is None
    assert _replacement("layer", nn.ReLU(), flow) is None


def _flow(shapes) -> _Flow:
    flow = object.__new__(_Flow)
    flow.shapes, flow.calls, flow.patterns, flow.levels, flow.raised = shapes, {}, {}, {}, {}
    flow.draw, flow.device = torch.Generator().manual_seed(0), torch.device("cpu")
    return flow
