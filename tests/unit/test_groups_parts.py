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
from raybench.groups.members import _convolution
from raybench.groups.products import Products
from raybench.groups.proof import _random
from raybench.groups.trace import trace
from tests.pruning_nets import IMAGE, assert_costs_as_predicted


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


def test_random_weights_of_a_proof_are_usual_ones():
    """Variances are positive, else the proof would compare NaN with NaN; shared weights stay shared."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 1))
    model[3].weight = model[2].weight
    found = _random(model, torch.float64, torch.Generator().manual_seed(0))
    assert found[3].weight is found[2].weight
    assert 0.5 <= found[1].running_var.min() < 0.7
    assert 1.3 < found[1].running_var.max() <= 1.5
    for layer in (found[0], found[2]):
        bound = (3 / layer.weight[0].numel()) ** 0.5
        assert -bound <= layer.weight.min() < -0.9 * bound
        assert 0.9 * bound < layer.weight.max() <= bound
        assert 0.05 < layer.bias.std() < 0.2
    assert 0.5 <= found[1].weight.min() <= found[1].weight.max() <= 1.5
    assert torch.equal(model[1].running_var, torch.ones(64))


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


def test_a_layer_that_is_called_again_has_the_shape_of_that_call():
    flow = _flow({"layer": [(1, 3, 4, 4), (1, 3, 2, 2)]})
    assert [tuple(flow.output("layer", 1).shape) for _ in range(3)] == [(1, 3, 4, 4), (1, 3, 2, 2), (1, 3, 2, 2)]
    assert flow.calls == {"layer": 3}


@pytest.mark.parametrize(
    "excess",
    [
        lambda a, b, c, d: 100,
        lambda a, b, c, d: 7 + 3 * a + 2 * d,
        lambda a, b, c, d: 7 + 3 * a + 5 * b * b,
        lambda a, b, c, d: 11 + 2 * b * c + c * c,
        lambda a, b, c, d: 4 * a + a * b + 6 * b * c + d,
    ],
)
def test_products_outside_known_layers_are_found_from_few_cuts(excess):
    sizes, least = np.array([12, 9, 16, 10]), np.array([1, 1, 2, 1])
    found = Products.fitted(lambda kept: excess(*map(int, kept)), sizes, least)
    rng = np.random.default_rng(1)
    cuts = np.array([rng.integers(least, sizes + 1) for _ in range(50)])
    assert [float(found.total(kept)) for kept in cuts] == [excess(*map(int, kept)) for kept in cuts]


def test_products_of_three_widths_have_no_known_form():
    sizes, least = np.array([12, 9, 16]), np.array([1, 1, 1])
    assert Products.fitted(lambda kept: int(np.prod(kept)), sizes, least) is None


@pytest.mark.parametrize(
    ("conv", "handler", "expected"),
    [
        (nn.Conv2d(6, 8, 3), "out", ("conv", "out", 8, 1)),
        (nn.Conv2d(6, 8, 3), "in", ("conv", "in", 6, 1)),
        (nn.Conv2d(6, 8, 3, groups=2), "out", ("conv", "out", 8, 2)),
        (nn.Conv2d(6, 6, 3, groups=6), "out", ("depthwise", "out", 6, 1)),
        (nn.Conv2d(12, 6, 3, groups=6), "out", "6 groups, 12 input and 6 output channels"),
        (nn.Conv2d(6, 12, 3, groups=6), "out", "makes 2 channels of each of its 6"),
        (nn.ConvTranspose2d(6, 9, 3, groups=3), "out", "a grouped transposed convolution"),
    ],
)
def test_sides_of_convolutions(conv, handler, expected):
    graph = SimpleNamespace(model_name="Net", is_out_channel_pruning_fn=lambda one: one == "out")
    if isinstance(expected, tuple):
        assert _convolution(graph, conv, "conv", SimpleNamespace(handler=handler)) == expected
    else:
        with pytest.raises(NotSupported, match=f"can't group Net: conv .*{expected}"):
            _convolution(graph, conv, "conv", SimpleNamespace(handler=handler))


class LinearAttention(nn.Module):
    """Laid out as timm's attention, but keys meet values first, which costs less than queries times keys."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.scale = 4, 0.5
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj((q @ (k.mT @ v * self.scale)).transpose(1, 2).flatten(2))


class LinearAttends(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.attention, self.head = nn.Conv2d(3, 32, 4, 4), LinearAttention(), nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x)).mean(1))


def test_attention_of_another_form_costs_what_it_computes():
    torch.manual_seed(0)
    model = LinearAttends().eval()
    assert_costs_as_predicted(model, trace(model, IMAGE[:1]))
