"""Groups of labels by hand, channels that are truly gone, trial cuts, and what is tried after one has failed."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups import follow as module
from raybench.groups.flow import Misplaced
from raybench.groups.follow import _misplaced, _next, _Trials, candidates, follow
from raybench.groups.following import Choices, Followed
from raybench.groups.labelled import Place, _group, _signatures, grouped
from raybench.groups.labels import FIXED
from raybench.groups.live import STATISTICS, Live, gone_of
from raybench.groups.records import Group, Groups, Member
from raybench.sweep.trial import DEFAULT_PARTS
from tests.pruning_nets import IMAGE, Chain, small_vit

GONE = np.array([False, True, False, True, False, False])  # of labels 0 to 5


def place(layer: str, kind: str, side: str, *labels: int, **more: Any) -> Place:
    return Place(layer, kind, side, np.array(labels), **more)


def test_units_with_the_same_places_and_counts_have_one_signature() -> None:
    places = [
        place("a", "conv", "out", 1, 2, 3, 4),
        place("b", "linear", "in", 1, 1, 2, 2, 3, 4),
        place("c", "conv", "out", 5),
    ]
    classes, pinned = np.array([0, 1, 2, 3, 3, 5]), np.array([True, False, False, False, False, True])
    assert _signatures(places, classes, pinned) == {((0, 1), (1, 2)): [1, 2], ((0, 2), (1, 2)): [3]}


def made(
    places: list[Place], units: list[int], signature: Any = None, names: Any = (), parts: Any = DEFAULT_PARTS
) -> Any:
    classes = np.arange(10)
    shape = signature or tuple((k, 1) for k in range(len(places)))
    group = _group(shape, units, places, classes, set(names), nn.Identity(), parts)
    if group is None:
        return None
    members = [
        (m.layer, m.kind, m.side, m.width, m.positions.tolist(), m.units.tolist(), m.folds, m.axis)
        for m in group.members
    ]
    return (group.name, group.size, group.part, group.least), members


def test_a_group_is_named_after_the_first_layer_that_makes_it() -> None:
    places = [
        place("scale", "parameter", "out", 3, 1, 2, axis=1), place("b", "conv", "in", 9, 2, 1, 3, folds=2),
        place("a", "linear", "out", 3, 9, 2, 1), place("z", "conv", "out", 1, 2, 3),
    ]  # fmt: skip
    assert made(places, [1, 2, 3]) == (
        ("a", 3, "channels", 2),
        [
            ("a", "linear", "out", 4, [0, 2, 3], [0, 1, 2], 1, None),
            ("z", "conv", "out", 3, [0, 1, 2], [2, 1, 0], 1, None),
            ("scale", "parameter", "out", 3, [0, 1, 2], [0, 2, 1], 1, 1),
            ("b", "conv", "in", 4, [1, 2, 3], [1, 2, 0], 2, None),
        ],
    )


def test_names_of_groups_are_told_apart() -> None:
    places = [place("a", "conv", "out", 1, 2, 3)]
    assert [made(places, [1, 2], names=names)[0][0] for names in ((), ("a",), ("a", "a:1"), ("b",))] == [
        "a", "a:1", "a:2", "a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("places", "units", "size"),
    [
        ([place("a", "conv", "in", 1, 2, 3)], [1, 2, 3], None),
        ([place("a", "norm", "out", 1, 2, 3)], [1, 2, 3], None),
        ([place("a", "depthwise", "out", 1, 2, 3)], [1, 2, 3], None),
        ([place("a", "conv", "out", 1, 2, 3)], [1], None),
        ([place("a", "conv", "out", 1, 2, 3)], [1, 2], (2, 1)),
        ([place("a", "conv", "out", 1, 2, 3), place("b", "conv", "in", 1, 2, 3, folds=2)], [1, 2], None),
        ([place("a", "conv", "out", 1, 2, 3), place("b", "conv", "in", 1, 2, 3, folds=2)], [1, 2, 3], (3, 2)),
        ([place("a", "conv", "out", 1, 2, 3), place("b", "norm", "out", 1, 2, 3, folds=2)], [1, 2], (2, 1)),
    ],
)
def test_what_no_layer_makes_or_is_too_small_is_no_group(places, units, size) -> None:
    found = made(places, units)
    assert (found and (found[0][1], found[0][3])) == size


def test_parts_of_attention_models_that_are_not_asked_for_are_left_out() -> None:
    model = small_vit()
    assert [g.name for g in candidates(model, IMAGE[:1], ("embed",)).groups] == ["patch_embed.proj"]
    assert {g.part for g in candidates(model, IMAGE[:1], ("mlp",)).groups} == {"mlp"}


def test_protected_sides_keep_their_width() -> None:
    model = Chain(torch.relu).eval()
    found = candidates(model, IMAGE[:1], DEFAULT_PARTS, frozenset({"first"}))
    assert [g.name for g in found.groups] == ["second", "third"]
    assert found.whole == {"first": "protected", "head": "it makes the output"}
    assert found.groups.protected == ("first", "head")
    assert found.choices == Choices(layers=frozenset({("first", "out")}))
    with pytest.raises(NotSupported, match=r"^can't group Chain: following its channels took too long"):
        candidates(model, IMAGE[:1], DEFAULT_PARTS, max_seconds=-1)


def test_too_few_channels_are_a_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(16, 2)).eval()
    found = candidates(model, torch.rand(1, 3, 2, 2), DEFAULT_PARTS)
    assert found.whole == {"0": "too few channels", "3": "it makes the output"}


def live_of(**shapes: tuple[str, tuple[int, ...]]) -> tuple[Live, list[Tensor]]:
    """A pass without labels 1 and 3, and tensors with labels 1 to 5 along the axes named c."""
    live, tensors = Live(nn.Identity(), Choices(), math.inf, GONE), []
    for letters, shape in shapes.values():
        tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 1
        live.note(tensor, [np.arange(1, 6) if letter == "c" else FIXED for letter in letters])
        tensors.append(tensor)
    live.labels.count = 6
    return live, tensors


def test_operations_over_channels_that_are_known_exist() -> None:
    operations = {*dir(torch.ops.aten)} | {name for name in STATISTICS if hasattr(torch.ops.aten, name)}
    assert sorted(STATISTICS - operations) == []
    assert len(STATISTICS) == 36


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "prod", "softmax", "log_softmax", "std", "logsumexp"])
@pytest.mark.parametrize("inference", [False, True])
def test_statistics_do_not_see_what_is_gone(name: str, inference: bool) -> None:
    live, (x,) = live_of(x=("-c-", (2, 5, 3)))
    with torch.inference_mode(inference), live:
        found = getattr(x, name)(1)
    expected = getattr(x[:, [1, 3, 4]], name)(1)
    if found.dim() == 3:
        assert not found[:, [0, 2]].any()
        found = found[:, [1, 3, 4]]
    torch.testing.assert_close(found, expected)


def test_norms_and_products_do_not_see_what_is_gone() -> None:
    left = [1, 3, 4]
    live, (x, w, b) = live_of(x=("--c", (2, 3, 5)), w=("c", (5,)), b=("c", (5,)))
    with live:
        found = torch.nn.functional.layer_norm(x, (5,), w, b)
    assert not found[..., [0, 2]].any()
    torch.testing.assert_close(found[..., left], torch.nn.functional.layer_norm(x[..., left], (3,), w[left], b[left]))
    live, (x, w) = live_of(x=("-c-", (2, 5, 3)), w=("c", (5,)))
    with live:
        found = torch.nn.functional.group_norm(x, 1, w)
    torch.testing.assert_close(found[:, left], torch.nn.functional.group_norm(x[:, left], 1, w[left]))
    live, (x, y) = live_of(x=("-c", (2, 5)), y=("c-", (5, 4)))
    with live:
        torch.testing.assert_close(x @ y, x[:, left] @ y[left])
    live, (x,) = live_of(x=("-c", (2, 5)))
    with live:
        torch.testing.assert_close(x * 2, x * 2)  # no statistic
        torch.testing.assert_close(x.sum(0), torch.where(torch.from_numpy(GONE[1:]), 0.0, x.sum(0)))


def test_all_gone_is_as_it_was() -> None:
    live, (x,) = live_of(x=("-c", (2, 5)))
    live.gone = np.array([False, *[True] * 5])
    with live:
        torch.testing.assert_close(x.sum(1), x.sum(1))
    live.gone = np.zeros(6, dtype=bool)
    with live:
        torch.testing.assert_close(x.sum(1), x.sum(1))


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.scale, self.other = nn.Parameter(torch.rand(1, 4)), nn.Linear(3, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.scale + self.other(x))


def test_labels_of_the_removed_units_are_gone_with_all_that_they_are() -> None:
    model = Bare()
    followed = Followed(model, Choices(), math.inf)
    module.run_followed(followed, model, torch.rand(2, 3))
    groups, _ = grouped(model, followed, Choices(), DEFAULT_PARTS)
    assert {g.name: [m.layer for m in g.members] for g in groups} == {
        "first": ["first", "other", "scale", "last"], "last": ["last"],
    }  # fmt: skip
    gone = gone_of(model, followed, groups, {"first": np.array([0, 2, 3])})
    at = {name: followed.axes(p) for name, p in model.named_parameters()}
    for axis in (at["first.weight"][0], at["other.weight"][0], at["scale"][1], at["last.weight"][1]):
        assert gone[axis].tolist() == [False, True, False, False]
    assert not gone[at["last.weight"][0]].any()
    assert not gone[at["first.weight"][1]].any()
    assert gone.sum() == 4
    assert not gone_of(model, followed, groups, {}).any()
    only = Groups((Group("first", 4, tuple(m for m in groups.groups[0].members if m.layer == "scale")),))
    assert gone_of(model, followed, only, {"first": np.array([1, 2])})[at["scale"][1]].tolist() == [
        True,
        False,
        False,
        True,
    ]
    narrow = Member("first", "linear", "out", 3, np.arange(3), np.arange(3))
    assert not gone_of(model, followed, Groups((Group("first", 4, (narrow,)),)), {"first": np.array([1])}).any()


def followed_with(reshaped: set[str]) -> Followed:
    followed = Followed(nn.Identity(), Choices(), math.inf)
    followed.reshaped = reshaped
    return followed


STACK = [("", "Net"), ("block", "Block"), ("block.conv", "Conv2d")]


def net() -> nn.Module:
    model, block = nn.Module(), nn.Module()
    block.conv = nn.Conv2d(1, 1, 1)
    model.block = block
    return model


def test_after_a_failure_the_innermost_module_tries_another_axis_then_none() -> None:
    """Layers can't be wrong themselves; when a module has tried all, the one around it does."""
    outcomes, error, followed = [], RuntimeError("shape\nmore"), followed_with({"Block"})
    choices = Choices(layers=frozenset({("a", "out")}))
    while True:
        try:
            choices, why = _next(choices, STACK, followed, error, net())
        except NotSupported as given_up:
            outcomes.append(str(given_up))
            break
        assert why == "Block can't do with fewer channels (shape)"
        outcomes.append((dict(choices.reshapes), sorted(choices.whole)))
    assert outcomes == [
        ({"Block": 1}, []), ({"Block": 2}, []), ({"Block": 2}, ["Block"]), ({"Block": 2}, ["Block", "Net"]),
        "can't group Identity: Block can't do with fewer channels (shape)".replace("Identity", "Module"),
    ]  # fmt: skip
    assert choices.layers == frozenset({("a", "out")})
    assert _next(Choices(), STACK[:1], followed_with(set()), KeyError(), net())[1] == (
        "Net can't do with fewer channels (KeyError)"
    )


def test_layers_whose_channels_arrive_elsewhere_stay() -> None:
    def sides(*names: str) -> tuple[Member, ...]:
        return tuple(Member(name, "conv", "out", 1, np.zeros(1), np.zeros(1)) for name in names)

    groups, error = Groups((Group("a", 2, sides("x", "y")), Group("b", 2, sides("z")))), Misplaced("no")
    error.layer, error.groups = "reader", ("a",)
    before = Choices(layers=frozenset({("x", "out")}))
    assert _misplaced(error, groups, before).layers == {("x", "out"), ("y", "out")}
    error.groups = ()
    assert _misplaced(error, groups, before).layers == {("x", "out"), ("reader", "in")}
    with pytest.raises(Misplaced):
        _misplaced(error, groups, Choices(layers=frozenset({("reader", "in")})))


def test_trials_run_shapes_where_values_do_not_matter() -> None:
    plain = _Trials.of(Chain(torch.relu).eval(), IMAGE)
    reading = _Trials.of(Chain(lambda x: x * float(x.detach().sum() != 0.1)).eval(), IMAGE)
    assert (plain.shapes_only, reading.shapes_only) == (True, False)
    for trials in (plain, reading):
        assert trials.shapes_of(trials.model) == {
            "first": [(2, 16, 16, 16)], "second": [(2, 16, 16, 16)], "third": [(2, 16, 16, 16)], "head": [(2, 10)],
        }  # fmt: skip


def test_the_first_failure_of_a_trial_cut_is_told(monkeypatch) -> None:
    widths = set()

    def noting(x: Tensor) -> Tensor:
        widths.add(x.shape[1])
        if x.shape[1] in failing:
            raise ValueError("not this")
        return x

    failing: set[int] = set()
    model = Chain(noting).eval()
    found = candidates(model, IMAGE[:1], DEFAULT_PARTS)
    followed, trials = Followed(model, Choices(), math.inf), _Trials.of(model, IMAGE[:1])
    widths.clear()
    assert trials.failed(found.groups, followed, Choices()) is None
    assert len(widths) == 2
    assert 8 in widths
    for one in list(widths):
        failing.clear()
        failing.add(one)
        choices, why = trials.failed(found.groups, followed, Choices())
        assert (choices.whole, why) == ({"Chain"}, "Chain can't do with fewer channels (not this)")


def test_following_gives_up_in_time_and_says_what_failed_last(monkeypatch) -> None:
    def never(x: Tensor) -> Tensor:
        if x.shape[1] != 16:
            raise ValueError("sixteen")
        return x

    model = Chain(never).eval()
    with pytest.raises(NotSupported) as caught:
        follow(model, IMAGE[:1], DEFAULT_PARTS)
    assert str(caught.value) == (
        "Chain has no group of channels that can be pruned: Chain can't do with fewer channels (sixteen)"
    )
    monkeypatch.setattr(module, "SLOWEST", 0)
    with pytest.raises(NotSupported) as caught:
        follow(model, IMAGE[:1], DEFAULT_PARTS)
    assert str(caught.value) == "can't group Chain: trial cuts took too long; the last: "
    fixed = nn.Sequential(nn.Linear(3, 2)).eval()
    monkeypatch.setattr(module, "SLOWEST", 6)
    with pytest.raises(NotSupported) as caught:
        follow(fixed, torch.rand(1, 3), DEFAULT_PARTS)
    assert str(caught.value) == "Sequential has no group of channels that can be pruned: it makes the output"
    monkeypatch.setattr(module, "time", SimpleNamespace(thread_time=lambda: 1000.0))  # what was before doesn't count
    assert len(follow(Chain(torch.relu).eval(), IMAGE[:1], DEFAULT_PARTS).groups) == 3
