"""Members by hand: layers by name, what stays whole and why, parts of attention, and the better of two ways."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported, UserError
from raybench.groups import trace as tracing
from raybench.groups.by_graph import _check_classes, _detach, _keep_grouped, _trainable
from raybench.groups.dependency_graph import GuardedGraph, IndexMap, merged
from raybench.groups.follow import Found
from raybench.groups.following import Choices
from raybench.groups.members import Layers, _merged_patches, check_folds, members_of
from raybench.groups.partition import _bias_tables, _folds, part_of, partitioned
from raybench.groups.records import Group, Groups, Member
from raybench.groups.trace import trace
from tests.pruning_nets import IMAGE, Branches, Chain


def member(layer: str, kind: str, side: str, width: int = 4, units: Any = None, **more: Any) -> Member:
    each = np.arange(width) if units is None else np.array(units)
    return Member(layer, kind, side, width, np.arange(width), each, **more)


def graph_of(model: nn.Module, image: Tensor = IMAGE[:1]) -> GuardedGraph:
    return GuardedGraph(type(model).__name__).build(model.eval(), image, [])


def test_modules_are_found_by_name_and_glob_with_all_below() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    model.add_module("10", nn.Linear(2, 2))
    model.add_module("block", nn.Sequential(nn.Linear(2, 2)))
    layers = Layers.of(model)
    assert layers.resolve(["0"]) == {"0", "0.0", "0.1"}
    assert layers.resolve(["*.0", "1"]) == {"0.0", "block.0", "1"}
    assert layers.resolve([]) == set()
    with pytest.raises(UserError) as caught:
        layers.resolve(["blok"], "only")
    assert str(caught.value) == "only: Sequential has no module 'blok'. Did you mean 'block' or 'block.0'?"
    with pytest.raises(UserError) as caught:
        layers.resolve(["zzz"])
    assert str(caught.value) == "protect: Sequential has no module 'zzz'."
    assert [name for name, _ in layers.roots()] == ["0.0", "0.1", "1", "10", "block.0"]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.odd = nn.Linear(2, 2, bias=False), nn.Linear(2, 2), nn.Module()
        self.b.weight, self.own = self.a.weight, nn.Parameter(torch.ones(3))
        self.odd.also = self.own


def test_layers_that_share_and_layers_that_stay_are_noted_once() -> None:
    layers = Layers.of(Shared())
    assert layers.tied == {"a": "a.weight", "b": "a.weight", "own": "own", "odd.also": "own"}
    assert (layers.name(layers.model.b), layers.name(nn.ReLU())) == ("b", "")
    maps = [SimpleNamespace(node=SimpleNamespace(module=module)) for module in (nn.ReLU(), layers.model.b)]
    assert layers.uncuttable(maps) == (["a", "b"], "they share a.weight")
    assert layers.uncuttable(maps[:1]) == ([], "they share ")
    layers.keep_whole(["a"], ["a", "b"], "one")
    layers.keep_whole(["b"], ["a"], "two")
    layers.keep_whole(["b"], ["c"], "three")
    assert layers.whole == [(("a",), ("b",), "one"), (("b",), ("c",), "three")]


def test_what_surgery_does_not_know_is_named_by_kind() -> None:
    model = nn.Sequential(nn.PReLU(3), nn.Embedding(2, 2), nn.PReLU(), nn.Linear(2, 2))
    layers = Layers.of(model)
    maps = [SimpleNamespace(node=SimpleNamespace(module=module)) for module in model]
    assert layers.uncuttable(maps) == (["0", "1"], "an Embedding or PReLU can't be cut")
    assert layers.uncuttable(maps[2:]) == ([], "they share ")


def test_layers_outside_autograd_are_named() -> None:
    layers = Layers.of(Chain(torch.relu))
    layers.shapes = {name: [] for name in ("first", "second", "third")}
    with pytest.raises(NotSupported) as caught:
        layers.check_traced(SimpleNamespace(model_name="Net", module2node={layers.model.second: 0}))
    assert str(caught.value) == (
        "can't group Net: first, third ran but can't be reached from the output through autograd (detached, or under "
        "no_grad)"
    )
    layers.check_traced(SimpleNamespace(model_name="Net", module2node=dict.fromkeys(layers.model.modules())))


def test_groups_of_a_layer_stay_equally_wide() -> None:
    even = member("c", "conv", "out", 6, [0, 1, 2] * 2, folds=2)
    check_folds("Net", [Group("g", 3, (even,))])
    check_folds("Net", [Group("g", 6, (member("c", "conv", "out", 6),))])
    with pytest.raises(NotSupported, match=r"^can't group Net: the 2 groups of c would not stay equally wide$"):
        check_folds("Net", [Group("g", 6, (member("c", "conv", "out", 6, folds=2),))])
    half = Member("c", "conv", "out", 6, np.array([0, 1, 2]), np.array([0, 1, 2]), 2)
    with pytest.raises(NotSupported, match="would not stay equally wide"):
        check_folds("Net", [Group("g", 3, (half,))])


def test_members_come_in_the_models_order_and_refuse_what_the_graph_does_not_hold() -> None:
    model = Branches()
    layers, graph = Layers.of(model), graph_of(model)
    node = graph.module2node[model.left]
    walk = merged(graph.walk(node, graph.get_pruner_of_module(model.left).prune_out_channels, 3))
    found = [(m.layer, m.kind, m.side, m.width) for m in members_of(layers, graph, walk[::-1])]
    assert found == [
        ("left", "conv", "out", 3), ("mix", "conv", "out", 8), ("norm", "norm", "out", 8), ("mix", "conv", "in", 8),
        ("head", "linear", "in", 32),
    ]  # fmt: skip
    outs = walk[0]
    wide = IndexMap(outs.node, outs.handler, np.array([0, 3]), np.array([0, 3]))
    with pytest.raises(NotSupported) as caught:
        members_of(layers, graph, [wide])
    assert str(caught.value) == (
        "can't group Branches: left (out, 3 channels) has no channel 3, which the graph couples; it doesn't follow a "
        "split or reshape before this layer"
    )


class PatchMerging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)


def test_merged_patches_hold_each_channel_four_times() -> None:
    index, root = np.array([0, 1]), np.array([4, 5])
    for model, name, width, expected in (
        (nn.Sequential(PatchMerging()), "0.norm", 8, (list(range(8)), [4, 5] * 4)),
        (nn.Sequential(PatchMerging()), "0.norm", 6, ([0, 1], [4, 5])),
        (nn.Sequential(nn.Sequential(nn.LayerNorm(8))), "0.0", 8, ([0, 1], [4, 5])),
    ):
        found = _merged_patches(Layers.of(model), name, width, index, root)
        assert tuple(one.tolist() for one in found) == expected


def attention(**more: Any) -> Any:
    return SimpleNamespace(proj=SimpleNamespace(in_features=8), num_heads=2, **more)


def test_attention_makes_groups_of_heads_and_of_their_width() -> None:
    members = [member("a.qkv", "linear", "out", 24, [*range(8)] * 3), member("a.proj", "linear", "in", 8)]
    heads = {"a": attention(relative_position_bias_table=nn.Parameter(torch.zeros(9, 2)))}
    both = partitioned("a.qkv", members, heads, "a", ("heads", "head-dim"))
    assert [(g.name, g.size, g.part, g.least) for g in both] == [
        ("a.qkv:heads", 2, "heads", 1), ("a.qkv:head-dim", 4, "head-dim", 1),
    ]  # fmt: skip
    assert both[0].members[0].units.tolist() == ([0] * 4 + [1] * 4) * 3
    assert both[0].members[1].units.tolist() == [0] * 4 + [1] * 4
    assert both[1].members[0].units.tolist() == [0, 1, 2, 3] * 6
    table = both[0].members[2]
    assert (table.layer, table.kind, table.side, table.width) == (
        "a.relative_position_bias_table",
        "parameter",
        "out",
        2,
    )
    assert (table.positions.tolist(), table.units.tolist()) == ([0, 1], [0, 1])
    assert [len(g.members) for g in both] == [3, 2]
    assert [g.part for g in partitioned("a.qkv", members, heads, "a", ("heads",))] == ["heads"]
    assert _bias_tables("a", attention()) == _bias_tables("a", attention(relative_position_bias_table=3)) == ()


def test_parts_of_attention_models() -> None:
    heads = {"a": attention()}
    lone, proj = member("fc", "linear", "out"), member("a.proj", "linear", "out")
    assert part_of([lone], {}) == "channels"
    assert part_of([lone, proj], heads) == "embed"
    assert part_of([member("a.proj", "linear", "in"), lone], heads) == "mlp"
    assert part_of([lone, member("n", "norm", "out"), member("x", "linear", "in")], heads) == "mlp"
    assert part_of([lone, lone], heads) == part_of([member("c", "conv", "out")], heads) == "channels"
    assert part_of([lone, member("d", "depthwise", "out")], heads) == "channels"
    assert partitioned("fc", [lone], heads, "", ("embed",)) == []
    assert [g.part for g in partitioned("fc", [lone], heads, "", ("mlp",))] == ["mlp"]
    assert [g.part for g in partitioned("c", [member("c", "conv", "out")], heads, "", ())] == ["channels"]


def test_units_of_grouped_layers() -> None:
    conv, into = member("c", "conv", "out", 12), member("g", "conv", "in", 12, folds=2)
    norm = member("n", "norm", "out", 12, folds=4)
    assert [_folds(some) for some in ([conv], [conv, into], [conv, norm], [conv, into, norm])] == [
        (1, 1), (2, 2), (4, 1), (4, 2),
    ]  # fmt: skip
    (found,) = partitioned("c", [conv, into], {}, "", ())
    assert (found.name, found.size, found.part, found.least) == ("c", 6, "channels", 2)
    assert [m.units.tolist() for m in found.members] == [[*range(6)] * 2] * 2


def test_what_a_forward_keeps_is_cut_off_from_its_graph() -> None:
    weight = nn.Parameter(torch.ones(2))
    kept = {
        "a": weight * 2,
        "b": {"c": weight * 3, "_hidden": {"d": weight * 4}},
        "_private": {"e": weight * 5},
        "f": 1,
    }
    hidden, private = kept["b"]["_hidden"]["d"], kept["_private"]["e"]
    _detach(kept)
    assert (kept["a"].grad_fn, kept["b"]["c"].grad_fn) == (None, None)
    assert kept["b"]["_hidden"]["d"] is hidden
    assert kept["_private"]["e"] is private
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[1].weight.requires_grad_(False)
    with _trainable(model):
        assert all(p.requires_grad for p in model.parameters())
        model[1].seen = model(torch.rand(4, 2))
    assert model[1].seen.grad_fn is None
    assert not model[1].weight.requires_grad
    assert torch.equal(model[0].running_mean, torch.zeros(2))


def test_a_classifier_of_another_width_is_named() -> None:
    model = Chain(torch.relu)
    graph, layers = graph_of(model), Layers.of(model)
    _check_classes(layers, graph, None)
    _check_classes(layers, graph, 10)
    with pytest.raises(UserError) as caught:
        _check_classes(layers, graph, 7)
    assert str(caught.value) == ("head, which produces the output of Chain, has 10 outputs; the data has 7 classes")


def test_grouped_layers_with_too_few_channels_are_named() -> None:
    layers = Layers.of(nn.ReLU())
    members = [
        member("c", "conv", "out", 4, folds=2),
        member("d", "conv", "in", 3, folds=3),
        member("e", "conv", "in", 8),
    ]
    why = "c has 2 channels in each of its groups and d has 1 channel in each of its groups, and two must stay"
    assert _keep_grouped(layers, members, ["x", "c"]) == why
    assert layers.whole == [(("c", "d"), ("x",), why)]
    assert _keep_grouped(layers, [*members[2:], member("n", "norm", "out", 4, folds=2)], ["x"]) == ""


def groups_with(share: float, *names: str) -> Groups:
    return Groups(
        tuple(Group(name, 4, ()) for name in names), ("z",), {"z": "it makes the output", "y": "why y"}, share
    )


@pytest.mark.parametrize(
    ("first", "second", "expected", "ways"),
    [
        (0.7, 0.9, "follow", 1),  # more than six tenths: good enough
        (0.6, 0.7, "candidates", 2),
        (0.5, 0.4, "follow", 2),
        (0.5, 0.5, "follow", 2),
        (None, 0.3, "candidates", 2),
        ("error", 0.3, "candidates", 2),
        (0.3, None, "follow", 2),
    ],
)
def test_the_better_of_two_ways_is_taken(monkeypatch, first, second, expected: str, ways: int) -> None:
    tried = []

    def way(name: str, share: Any) -> Any:
        def find(model: nn.Module, example: Tensor, parts: Any, protected: Any, seconds: float) -> Found:
            tried.append((name, parts, protected, seconds))
            if share is None:
                raise NotSupported(f"no {name}")
            if share == "error":
                raise KeyError("x")
            return Found(groups_with(share, name), {"z": "it makes the output", "y": "why y"}, Choices())

        return find

    for name, share in (("follow", first), ("candidates", second)):
        monkeypatch.setattr(tracing, name, way(name, share))
    monkeypatch.setattr(tracing, "disproved", lambda *args: {})
    monkeypatch.setattr(
        tracing, "share_of", lambda layers, groups: first if groups.groups[0].name == "follow" else second
    )
    model = Chain(torch.relu)
    layers = Layers.of(model)
    found = tracing._followed(model, IMAGE[:1], layers, ("mlp",), {"y"}, 3.0, 1e9)
    assert ([g.name for g in found], found.share) == ([expected], first if expected == "follow" else second)
    assert tried == [(name, ("mlp",), frozenset({"y"}), 3.0) for name in ("follow", "candidates")[:ways]]
    assert found.whole == {"z": "it makes the output", "y": "named to keep its width"}
    assert layers.whole == []
    assert set(layers.shapes) == {"first", "second", "third", "head"}


def test_the_first_reason_of_a_refusal_counts_and_late_ones_are_not_looked_for(monkeypatch) -> None:
    tried = []

    def refused(name: str, error: Exception) -> Any:
        return lambda *args: (tried.append(name), (_ for _ in ()).throw(error))

    monkeypatch.setattr(tracing, "follow", refused("follow", KeyError("x")))
    monkeypatch.setattr(tracing, "candidates", refused("candidates", NotSupported("second")))
    model = Chain(torch.relu)
    message = "can't group Chain: its operations can't be followed (KeyError)"
    for started, ways in ((1e9, ["follow", "candidates"]), (-1e9, ["follow"])):
        tried.clear()
        with pytest.raises(NotSupported) as caught:
            tracing._followed(model, IMAGE[:1], Layers.of(model), (), set(), 3.0, started)
        assert (str(caught.value), tried) == (message, ways)
    nothing = Found(Groups(()), {"z": "it makes the output", "y": "why y"}, Choices())
    for name in ("follow", "candidates"):
        monkeypatch.setattr(tracing, name, lambda *args: nothing)
    with pytest.raises(NotSupported, match=r"^Chain has no group of channels that can be pruned: why y$"):
        tracing._followed(model, IMAGE[:1], Layers.of(model), (), set(), 3.0, 1e9)


def test_wrong_groups_are_left_out_with_their_reasons(monkeypatch) -> None:
    outs = member("a", "conv", "out"), member("n", "norm", "out"), member("b", "conv", "in")
    groups = Groups((Group("a", 4, outs), Group("c", 4, (member("c", "conv", "out"),))))
    monkeypatch.setattr(tracing, "disproved", lambda *args: {"a": "wrong"})
    found = tracing._proven(nn.ReLU(), IMAGE, Found(groups, {"x": "why", "p": "other"}, Choices()), {"p"})
    assert [g.name for g in found] == ["c"]
    assert found.whole == {"x": "why", "p": "named to keep its width", "a": "wrong"}
    assert found.protected == ("x", "p", "a")


def test_layers_named_in_three_ways_keep_their_width() -> None:
    model = Chain(torch.relu).eval()
    model.protected_layers = ("second",)
    found = trace(model, IMAGE[:1], protect=["first"])
    assert [g.name for g in found] == ["third"]
    layers = Layers.of(model)
    for protect, only in itertools.product(([], ["head"]), ([], ["first"])):
        named = tracing._protected(layers, protect, only)
        assert named == {"second"} | set(protect) | ({"second", "third", "head"} if only else set())
    with pytest.raises(UserError) as caught:
        tracing._check_parts(["mlp", "emded"])
    assert str(caught.value) == (
        "prune: unknown part 'emded'. Did you mean 'embed'? Known: embed, head-dim, heads, mlp"
    )
    assert tracing._check_parts(["mlp"]) == ("mlp",)
    assert tracing._check_parts([]) == tracing.DEFAULT_PARTS
