"""Following by hand: axes, joins, what no rule knows, labels of weights, trial cuts and what they teach."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.follow import fewer, half, kept_units, some, tensors_of
from raybench.groups.following import Call, Choices, Followed, flat, modules_known
from raybench.groups.labelled import Place, _with_bare_weights, note_labels, places_of
from raybench.groups.labels import ANY, FIXED, Labels, united
from raybench.groups.records import Group
from tests.label_text import done, runs, written


class Outer(nn.Module):
    """One module in another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Act(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def followed_of(model: nn.Module | None = None, choices: Choices | None = None) -> Followed:
    return Followed(model or nn.Identity(), choices or Choices(), math.inf)


def noted(followed: Followed, *shape: int, axis: int = 1) -> Tensor:
    tensor = torch.rand(shape)
    axes = [followed.labels.fresh(n) if k == axis else FIXED for k, n in enumerate(shape)]
    followed.note(tensor, axes)
    return tensor


def axes_of(followed: Followed, tensor: Tensor) -> str:
    return " ".join(written(axis) for axis in followed.axes(tensor))


def test_an_argument_is_found_by_name_or_place() -> None:
    call = Call("aten::x", (1, 2), {"c": 3}, (), ("a", "b", "c", "d"))
    assert [call.get(name) for name in "abcde"] == [1, 2, 3, None, None]
    assert (call.get("d", 4), call.get("e", 5), call.get("a", 6), call.get("c", 7)) == (4, 5, 1, 3)


def test_what_comes_from_nowhere_is_as_wide_as_it_must_where_all_is_equal() -> None:
    followed = followed_of()
    assert axes_of(followed, torch.ones(3, 4)) == "* *"
    assert axes_of(followed, torch.eye(3)) == "- -"
    assert axes_of(followed, torch.arange(3.0).expand(4, 3)) == "* -"
    assert axes_of(followed, torch.rand(1, 3)) == "* -"
    assert axes_of(followed, torch.rand(2, 0)) == "* *"
    assert axes_of(followed, torch.tensor([1.0, 1.0, 2.0])) == "-"
    tensor = noted(followed, 2, 3)
    assert axes_of(followed, tensor) == "- 1-3"
    followed.axes(tensor)[1] = FIXED
    assert axes_of(followed, tensor) == "- 1-3"
    assert followed.known(tensor)
    assert not followed.known(torch.ones(2, 3))


def test_axes_that_meet() -> None:
    followed = followed_of()
    a, b = followed.labels.fresh(3), followed.labels.fresh(3)
    assert followed.join(ANY, a, "x") is a
    assert followed.join(a, ANY, "x") is a
    assert followed.join(ANY, FIXED, "x") is FIXED
    assert followed.join(FIXED, ANY, "x") is FIXED
    assert followed.join(a, b, "x") is a
    assert followed.join(FIXED, a, "left") is FIXED
    assert followed.join(b, FIXED, "right") is FIXED
    assert done(followed) == ["1-3 = 4-6", "1-3: left", "4-6: right"]
    assert followed.couple(np.arange(6), 3).tolist() == [0, 1]
    assert done(followed)[1:3] == ["0-1 = 2-3", "0-1 = 4-5"]


def test_reasons_name_the_module_that_runs() -> None:
    model = nn.Sequential(Outer(Act(lambda x: x.cumsum(1))), nn.Linear(3, 2))
    followed = followed_of(model)
    assert (followed.here, followed.where("why")) == ("Sequential", "why in the forward (Sequential)")
    with modules_known(model, followed.stack), followed:
        model(noted(followed, 2, 3))
    assert followed.stack == [("", "Sequential")]
    assert done(followed)[0] == "1-3: a sum over the channels before in 0.inner (Act)"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_after_an_error_the_modules_that_ran_are_known() -> None:
    model = nn.Sequential(nn.ReLU(), Outer(Act(lambda x: x.view(7))))
    stack = [("", "Sequential")]
    with pytest.raises(RuntimeError, match="shape"), modules_known(model, stack):
        model(torch.zeros(2, 3))
    assert stack == [("", "Sequential"), ("", "Sequential"), ("1", "Outer"), ("1.inner", "Act")]


@pytest.mark.parametrize(
    ("function", "axes", "pinned"),
    [
        (lambda x: torch.fft.fft(x, dim=1), "- -", ["1-3: _fft_r2c isn't followed"]),
        (lambda x: torch.special.erfcx(x), "- 1-3", []),  # pointwise by its tag
        (lambda x: torch.relu(x), "- 1-3", []),
        (lambda x: x.sort(1)[0], "- -", ["1-3: sort isn't followed"]),
        (lambda x: x.gather(1, torch.zeros(2, 2, dtype=torch.int64)), "- -", ["1-3: channels taken by their numbers"]),
        (lambda x: x.gather(0, torch.zeros(2, 2, dtype=torch.int64)), "- -", ["1-3: channels are left out"]),
        (lambda x: x.mul_(2), "- 1-3", []),
        (lambda x: torch.zeros_like(x).add_(x), "- 1-3", ["1-3: channels are written into a new tensor"]),
    ],
)
def test_operations_without_a_rule_keep_what_they_touch(function: Any, axes: str, pinned: list[str]) -> None:
    followed = followed_of()
    x = noted(followed, 2, 3)
    with followed:
        out = function(x)
    assert (axes_of(followed, out), done(followed)) == (axes, pinned)


def test_operations_between_strangers_are_not_followed() -> None:
    followed = followed_of()
    noted(followed, 2, 3)
    with followed:
        out = torch.fft.fft(torch.rand(2, 3))
    assert not followed.known(out)
    assert done(followed) == []


def test_modules_that_stay_whole_keep_what_they_touch() -> None:
    model = nn.Sequential(Outer(Act(torch.relu)), Act(torch.sigmoid))
    followed = followed_of(model, Choices(whole=frozenset({"Outer", "Other"})))
    with modules_known(model, followed.stack), followed:
        out = model(noted(followed, 2, 3))
    assert (axes_of(followed, out), done(followed)) == ("- 1-3", [])
    followed = followed_of(model, Choices(whole=frozenset({"Act"})))
    with modules_known(model, followed.stack), followed:
        out = model(noted(followed, 2, 3))
    assert axes_of(followed, out) == "- 1-3"
    assert done(followed) == [
        "1-3: a width that it can't do with fewer of in 0.inner (Act)",
        "1-3: a width that it can't do with fewer of in 1 (Act)",
    ]


def test_following_ends_in_time_and_the_networks_own_time_is_free(monkeypatch) -> None:
    followed = Followed(nn.Identity(), Choices(), time.thread_time() - 1)
    with pytest.raises(NotSupported) as caught, followed:
        torch.ones(2)
    assert str(caught.value) == "can't group Identity: following its channels took too long,  in the forward (Identity)"
    now = iter([10.0, 10.0, 17.0, 17.0, 17.0, 20.0])
    followed = Followed(nn.Identity(), Choices(), 11.0)
    monkeypatch.setattr("raybench.groups.following.time", SimpleNamespace(thread_time=lambda: next(now)))
    with followed:
        torch.ones(2)
        torch.ones(2)
    assert followed.deadline == 11.0 + 7 + 3


def test_lists_in_lists_are_one_list() -> None:
    assert list(flat([1, (2, [3, "ab"]), {"x": 1}])) == [1, 2, 3, "ab", {"x": 1}]


def test_all_tensors_of_an_output_are_found() -> None:
    a, b, c, d, e = (torch.zeros(n) for n in range(5))
    output = {"a": a, "more": [b, (c, 3, "x")], "deep": SimpleNamespace(d=d, rest=[e])}
    assert [len(t) for t in tensors_of(output)] == [0, 1, 2, 3, 4]
    assert list(tensors_of(3)) == []


def test_how_many_units_trial_cuts_keep() -> None:
    rng = np.random.default_rng(0)
    assert [half(size, least, rng) for size, least in ((9, 1), (8, 1), (5, 4), (1, 1))] == [4, 4, 4, 1]
    assert {some(5, 2, rng) for _ in range(99)} == {2, 3, 4, 5}
    assert {fewer(5, 2, rng) for _ in range(99)} == {2, 3, 4}
    groups = [Group("a", 6, ()), Group("b", 5, (), "channels", 3)]
    kept = kept_units(groups, half, np.random.default_rng(0))
    assert {name: len(units) for name, units in kept.items()} == {"a": 3, "b": 3}
    assert all((np.diff(units) > 0).all() for units in kept.values())
    drawn = {tuple(kept_units(groups, half, np.random.default_rng(n))["a"]) for n in range(20)}
    assert len(drawn) > 5
    assert set(np.concatenate([np.array(one) for one in drawn])) == set(range(6))


def test_united_labels_have_the_lowest_as_their_class() -> None:
    def classes(count: int, *pairs: tuple[int, int]) -> list[int]:
        return united(count, np.array(pairs, dtype=np.int64).reshape(-1, 2).T).tolist()

    assert classes(4) == [0, 1, 2, 3]
    assert classes(5, (4, 3), (3, 1)) == [0, 1, 2, 1, 1]
    assert classes(6, (5, 4), (3, 4), (2, 3), (2, 1)) == [0, 1, 1, 1, 1, 1]
    assert classes(12, *((k, k + 1) for k in range(10, 0, -1))) == [0, *[1] * 11]
    assert classes(4, (2, 2), (0, 3)) == [0, 1, 2, 0]


def test_reasons_of_pinned_labels() -> None:
    labels = Labels()
    a, b, c = labels.fresh(2), labels.fresh(2), labels.fresh(2)
    labels.unite(a, b)
    labels.unite(a, a)
    labels.pin(FIXED, "nothing")
    labels.pin(np.array([3, 3]), "first")
    labels.pin(a, "second")
    classes, pinned = labels.classes()
    assert (labels.count, len(labels.united), pinned.tolist()) == (7, 1, [True] * 5 + [False] * 2)
    assert [labels.reason(axis, classes) for axis in (a, a[1:], b, c)] == ["first", "second", "first", ""]


class Parts(nn.Module):
    """Every kind of layer and of bare tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.grid = nn.Parameter(torch.rand(1, 4)), nn.Parameter(torch.rand(2, 3))
        self.register_buffer("table", torch.rand(2, 2))
        self.register_buffer("nothing", None)
        self.conv, self.linear = nn.Conv2d(2, 3, 1, bias=False), nn.Linear(2, 3)
        self.turned, self.depth = nn.ConvTranspose1d(2, 3, 1, bias=False), nn.Conv2d(4, 4, 1, groups=4, bias=False)
        self.each = nn.ConvTranspose1d(3, 3, 1, groups=3, bias=False)
        self.grouped, self.two = nn.Conv1d(4, 2, 1, groups=2, bias=False), nn.ConvTranspose1d(4, 2, 1, groups=2)
        self.norm, self.groups, self.bare = nn.BatchNorm1d(2), nn.GroupNorm(2, 4, affine=False), nn.LayerNorm((2, 2))
        self.prelu, self.lstm, self.table2 = nn.PReLU(3), nn.LSTM(1, 1, bias=False), nn.Embedding(2, 2)
        self.again = nn.Linear(2, 3, bias=False)
        self.again.weight = self.linear.weight


def test_every_weight_has_labels_and_every_side_a_place() -> None:
    model, followed = Parts(), followed_of()
    note_labels(followed, model)
    found = {name: axes_of(followed, t) for name, t in (*model.named_parameters(), *model.named_buffers())}
    assert found == {
        "scale": "* 2-5", "grid": "6-7 8-10", "table": "- -",
        "conv.weight": "11-13 14-15 - -", "linear.weight": "18-20 21-22", "linear.bias": "23-25",
        "turned.weight": "26-27 28-30 -", "depth.weight": "32-35 36 - -", "each.weight": "39-41 42 -",
        "grouped.weight": "44-45 46-47 -", "two.weight": "49-52 53 -", "two.bias": "55-56",
        "norm.weight": "57-58", "norm.bias": "59-60", "norm.running_mean": "61-62", "norm.running_var": "63-64",
        "norm.num_batches_tracked": "", "bare.weight": "65-66 67-68", "bare.bias": "69-70 71-72",
        "prelu.weight": "73-75",
        "lstm.weight_ih_l0": "- -", "lstm.weight_hh_l0": "- -", "table2.weight": "- -",
    }  # fmt: skip
    assert done(followed) == ["18-20: it shares linear.weight", "21-22: it shares linear.weight"]
    places = [
        f"{p.layer} {p.kind} {p.side} {runs(p.labels)}" + (f" of {p.folds}" if p.folds > 1 else "")
        + (f" along {p.axis}" if p.axis is not None else "")
        for p in places_of(model, followed)
    ]  # fmt: skip
    assert places == [
        "scale parameter out 2-5 along 1", "grid parameter out 6-7 along 0", "grid parameter out 8-10 along 1",
        "conv conv out 11-13", "conv conv in 14-15", "linear linear out 18-20", "linear linear in 21-22",
        "turned conv out 28-30", "turned conv in 26-27", "depth depthwise out 32-35", "each depthwise out 39-41",
        "grouped conv out 44-45 of 2", "grouped conv in 46-47,46-47 of 2",
        "norm norm out 57-58",
        "prelu.weight parameter out 73-75 along 0", "again linear out 18-20", "again linear in 21-22",
    ]  # fmt: skip
    assert done(followed)[:3] == ["57-58 = 59-60", "57-58 = 61-62", "57-58 = 63-64"]


def test_of_a_bare_weight_with_two_free_axes_one_is_its_input_and_more_stay() -> None:
    followed = followed_of()
    labels = [followed.labels.fresh(2) for _ in range(7)]
    places = [Place(name, "parameter", "out", labels[k], 1, axis) for k, (name, axis) in enumerate(
        (("one", 0), ("two", 0), ("two", 2), ("three", 0), ("three", 1), ("three", 2)),
    )]  # fmt: skip
    places.append(Place("conv", "conv", "out", labels[6]))
    found = _with_bare_weights(followed, places)
    assert [p.side for p in found] == ["out", "out", "in", "out", "out", "out", "out"]
    assert [(p.layer, p.axis, p.labels.tolist()) for p in found] == [
        (p.layer, p.axis, p.labels.tolist()) for p in places
    ]
    assert done(followed) == [f"{runs(labels[k])}: three is a weight of no known layer" for k in (3, 4, 5)]
    followed.labels.pin(labels[1], "fixed")
    followed.labels.pin(labels[2][:1], "half of it")
    assert [p.side for p in _with_bare_weights(followed, places)[1:3]] == ["out", "out"]
