"""Marked channels by hand: levels, patterns, what layers read, what counts as moved, and what is said of it."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybench.groups.flow import (
    Misplaced,
    _compare,
    _Flow,
    _layer,
    _norm,
    _one,
    _positions,
    _replaced_forwards,
    _replacement,
    _some,
    check_flow,
)
from raybench.groups.records import Group, Groups, Member

CPU = torch.device("cpu")


def flow_of(**shapes: tuple[int, ...]) -> _Flow:
    return _Flow({name: [torch.Size(shape)] for name, shape in shapes.items()}, CPU)


def member(layer: str, side: str, width: int, positions: list[int] | None = None, units: Any = None) -> Member:
    where = np.arange(width) if positions is None else np.array(positions)
    return Member(layer, "conv", side, width, where, np.arange(len(where)) if units is None else np.array(units))


def test_raised_channels_have_twice_their_level_at_every_place() -> None:
    flow = flow_of(a=(2, 3, 4, 5), b=(2, 6, 3))
    flow.start({("a", "out"): np.array([True, False, True]), ("b", "in"): np.ones(3, dtype=bool)})
    raised, other = flow.output("a", 1), flow.output("b", -1)
    flow.start({})
    plain = flow.output("a", -3)
    assert torch.equal(raised, plain * torch.tensor([2.0, 1.0, 2.0]).view(1, 3, 1, 1))
    assert torch.equal(flow.output("b", 2), other)
    assert flow.calls == {"a": 1, "b": 1}
    assert (plain.shape, other.shape) == ((2, 3, 4, 5), (2, 6, 3))
    assert set(flow.patterns) == {(1, 1, 4, 5), (1, 6, 1)}
    assert torch.equal(plain[0], plain[1])
    assert not torch.equal(plain[0, :, 0], plain[0, :, 1])
    assert torch.equal(other, (flow.levels["b"] * flow.patterns[1, 6, 1]).expand(2, 6, 3))
    plain += 1  # an output is nobody else's
    assert torch.equal(flow.output("a", 1), raised / torch.tensor([2.0, 1.0, 2.0]).view(1, 3, 1, 1))


def test_levels_and_patterns_are_drawn_by_a_seed_and_lie_in_their_ranges() -> None:
    first, again = flow_of(a=(1, 400, 20, 20)), flow_of(a=(1, 400, 20, 20))
    assert torch.equal(first.output("a", 1), again.output("a", 1))
    level, pattern = first.levels["a"], first.patterns[1, 1, 20, 20]
    assert 0.5 <= level.min() < 0.51
    assert 0.99 < level.max() < 1
    assert 0.2 <= pattern.min() < 0.22
    assert 1.97 < pattern.max() < 2
    flow = flow_of(vector=(7,), given=(1, 3, 2))
    assert flow.output("vector", 0).shape == (7,)
    given = torch.tensor([1.0, 2.0, 4.0])
    assert torch.equal(flow.output("given", 1, given), given.view(1, 3, 1) * flow.patterns[1, 1, 2])
    assert "given" not in flow.levels


def test_what_is_read_is_the_mean_of_each_channel_call_by_call() -> None:
    flow = flow_of()
    flow.start({})
    x = torch.arange(24, dtype=torch.float64).view(2, 3, 4)
    flow.note("a", "in", x, 1)
    flow.note("a", "in", x, -1)
    flow.note("b", "out", torch.tensor([3, 5]), 0)
    assert [one.tolist() for one in flow.read["a", "in"]] == [[7.5, 11.5, 15.5], [10.0, 11.0, 12.0, 13.0]]
    assert flow.read["b", "out"][0].tolist() == [3.0, 5.0]
    assert {one.dtype for calls in flow.read.values() for one in calls} == {torch.float32}
    flow.start({("a", "in"): np.ones(1, dtype=bool)})
    assert (flow.read, flow.calls, list(flow.raised)) == ({}, {}, [("a", "in")])


def test_half_of_the_units_or_one_are_raised() -> None:
    rng = np.random.default_rng(0)
    assert [int(_some(size, rng).sum()) for size in (1, 2, 3, 8, 9)] == [1, 1, 1, 4, 4]
    assert [int(_one(size, rng).sum()) for size in (1, 2, 9)] == [1, 1, 1]
    assert len({tuple(_some(8, rng)) for _ in range(9)}) > 1
    assert {int(_one(5, rng).argmax()) for _ in range(60)} == set(range(5))


def test_positions_of_units_in_any_group() -> None:
    owners = [(1, member("a", "out", 6, [0, 2, 4], [0, 1, 0])), (0, member("a", "out", 6, [1, 2], [1, 0]))]
    units = [np.array([False, True]), np.array([True, False])]
    assert _positions(owners, units).tolist() == [True, True, False, False, True, False]


GROUPS = Groups(
    tuple(
        Group(name, 8, (member(name, "out", 8), *(() if name == "lone" else (member("reader", "in", 8),))))
        for name in ("a", "b", "lone", "c", "d")
    )
)


def compared(changes: list[float], named: list[int], side: tuple[str, str] = ("reader", "in"), width: int = 8) -> str:
    """What is said after channel means of 2 have changed by `changes`, where those at `named` should."""
    raised = np.zeros(width, dtype=bool)
    raised[named] = True
    before = {side: [torch.full((len(changes),), 2.0)], ("other", "in"): [torch.ones(2)]}
    after = {side: [2.0 + 2.0 * torch.tensor(changes, dtype=torch.float64)], ("other", "in"): [torch.ones(2)]}
    try:
        _compare("Net", GROUPS, before, after, {side: raised, ("other", "in"): np.zeros(2, dtype=bool)})
    except Misplaced as error:
        return f"{error.layer} {' '.join(error.groups)}: {error}"
    return ""


def test_channels_that_move_unnamed_are_told_by_layer_position_and_groups() -> None:
    assert compared([0, 0, 1, 0, 0, 1, 0, 0], [2]) == (
        "reader a b c d: can't group Net: reader reads at its channel 5 what the graph places elsewhere: channels of "
        "group a, b, c are reordered or mixed before reader (a shuffle, a flip, heads of an attention, sums over "
        "channels). List the layers before it in the model's `protected_layers`; then the rest can be pruned"
    )
    said = compared([1, 0, 0, 0, 0, 0, 0, 0], [], ("reader", "out"))
    assert said.startswith("reader : can't group Net: reader reads at its channel 0 what the graph places elsewhere: ")
    assert ": channels that are cut are reordered" in said


@pytest.mark.parametrize(
    ("changes", "named", "moved"),
    [
        ([1.0, 0, 0, 0, 0, 0, 0, 0], [0], False),
        ([0.0, 0, 0, 0, 0, 0, 0, 0], [0], False),
        ([1.1e-4, 0, 0, 0, 0, 0, 0, 0], [], True),
        ([-1.0, 0, 0, 0, 0, 0, 0, 0], [], True),
        ([0.9e-4, 0, 0, 0, 0, 0, 0, 0], [], False),
        ([1, 1, 1, 1, 1, 1, 1, 0.9e-6], [], True),  # one of eight is still: an exchange
        ([1, 1, 1, 1, 1, 1, 1, 1.2e-6], [], False),  # nothing is still: a softmax
        ([1, 1, 1, 1, 1, 1, 1, 1, 0], [], False),  # another width than the group's
    ],
)
def test_what_counts_as_moved(changes: list[float], named: list[int], moved: bool) -> None:
    assert bool(compared(changes, named)) == moved


def test_a_side_without_groups_may_not_move() -> None:
    before, after = {("x", "in"): [torch.ones(8)] * 2}, {("x", "in"): [torch.ones(8), torch.ones(8) + torch.eye(8)[3]]}
    with pytest.raises(Misplaced, match=r"Net: x reads at its channel 3 .*: channels that are cut are"):
        _compare("Net", GROUPS, before, after, {})
    _compare("Net", GROUPS, before, {}, {})
    zeros = {("x", "in"): [torch.zeros(8)]}
    _compare("Net", GROUPS, zeros, zeros, {})


def test_layers_put_out_their_levels_and_note_what_they_read() -> None:
    flow = flow_of(conv=(2, 6, 4, 4), linear=(2, 5, 7), depth=(2, 6, 4, 4), grouped=(2, 6, 4, 4), seq=(2, 4, 5))
    flow.start({})
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(_layer("conv", nn.Conv2d(3, 6, 3), flow)(x), flow_of_again("conv", flow))
    torch.testing.assert_close(flow.read["conv", "in"][0], x.mean((0, 2, 3)))
    _layer("linear", nn.Linear(9, 7), flow)(y := torch.rand(2, 5, 9))
    torch.testing.assert_close(flow.read["linear", "in"][0], y.mean((0, 1)))
    _layer("seq", nn.Conv1d(3, 4, 1), flow)(z := torch.rand(2, 3, 5))
    torch.testing.assert_close(flow.read["seq", "in"][0], z.mean((0, 2)))
    _layer("grouped", nn.Conv2d(3, 6, 1, groups=1), flow)(x)
    assert ("grouped", "in") in flow.read
    _layer("grouped", nn.Conv2d(4, 6, 1, groups=2), flow)(torch.rand(2, 4, 4, 4))
    assert len(flow.read["grouped", "in"]) == 2
    out = _layer("depth", nn.Conv2d(3, 6, 3, groups=3), flow)(x)
    twice = x.mean((0, 2, 3)).repeat_interleave(2)
    torch.testing.assert_close(flow.read["depth", "out"][0], twice)
    torch.testing.assert_close(out, (twice.view(1, 6, 1, 1) * flow.patterns[1, 1, 4, 4]).expand(2, 6, 4, 4))
    assert ("depth", "in") not in flow.read
    assert "depth" not in flow.levels


def flow_of_again(name: str, flow: _Flow) -> Tensor:
    shape = flow.shapes[name][0]
    return (flow.levels[name].view(1, -1, 1, 1) * flow.patterns[1, 1, *shape[2:]]).expand(shape)


@pytest.mark.parametrize(
    ("norm", "noted"),
    [
        (nn.BatchNorm2d(3), True),
        (nn.GroupNorm(1, 3), True),
        (nn.InstanceNorm2d(3), True),
        (nn.LayerNorm(4), False),
        (nn.RMSNorm(4), False),
    ],
)
def test_norms_pass_what_they_get(norm: nn.Module, noted: bool) -> None:
    flow = flow_of()
    flow.start({})
    x = torch.rand(2, 3, 4, 4)
    assert _norm("n", norm, flow)(x, 1, a=2) is x
    assert list(flow.read) == ([("n", "out")] if noted else [])
    if noted:
        torch.testing.assert_close(flow.read["n", "out"][0], x.mean((0, 2, 3)))
    assert _replacement("n", norm, flow) is not None


def test_layers_that_never_ran_and_other_modules_keep_their_forward() -> None:
    flow = flow_of(seen=(1, 3, 2))
    assert _replacement("seen", nn.Linear(2, 2), flow) is not None
    assert _replacement("unseen", nn.Linear(2, 2), flow) is None
    assert _replacement("seen", nn.Sequential(nn.LayerNorm(2)), flow) is None


def test_own_forwards_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU())
    model[0].forward = own = lambda x: x  # type: ignore[method-assign]
    flow = flow_of(**{"0": (1, 3)})
    inside = []
    with pytest.raises(KeyError), _replaced_forwards(model, flow):
        inside += [
            model[0].forward is not own,
            "forward" in model[1].__dict__,
            "forward" not in model[2].__dict__,
            {}[3],
        ]
    with _replaced_forwards(model, flow):
        inside += [model[0].forward is not own, "forward" in model[1].__dict__, "forward" not in model[2].__dict__]
    assert inside == [True, True, True]
    assert model[0].__dict__["forward"] is own
    assert "forward" not in model[1].__dict__


class Reads(nn.Module):
    """Two linear layers; `between` sees what the first puts out."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.first, self.last, self.between, self.runs = nn.Linear(3, 16), nn.Linear(16, 2), between, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        assert not torch.is_grad_enabled()
        return self.last(self.between(self.first(x)))


READ = Groups((Group("first", 16, (member("first", "out", 16), member("last", "in", 16))),))
SHAPES = {"first": [torch.Size((2, 16))], "last": [torch.Size((2, 2))]}


def test_four_passes_find_an_exchange_of_channels_that_one_of_them_tells_apart() -> None:
    right = Reads(torch.relu)
    check_flow(right, torch.zeros(2, 3), READ, SHAPES)
    assert right.runs == 4
    rng = np.random.default_rng(0)
    raised = [choose(16, rng) for choose in (_some, _some, _one)]
    for k in range(1, 16):
        order = [k, *range(1, k), 0, *range(k + 1, 16)]
        apart = any(up[0] != up[k] for up in raised)
        exchanging = Reads(lambda x, order=order: x[:, order])
        with pytest.raises(Misplaced) if apart else contextlib.nullcontext():
            check_flow(exchanging, torch.zeros(2, 3), READ, SHAPES)


def test_a_pass_that_fails_is_told_once_and_decides_nothing() -> None:
    def failing(x: Tensor) -> Tensor:
        raise TypeError("no marks")

    with pytest.warns(UserWarning, match="could not be checked") as warned:
        check_flow(Reads(failing), torch.zeros(2, 3), READ, SHAPES)
    assert [str(one.message) for one in warned] == [
        "Reads: where its channels go could not be checked before the cut: no marks"
    ]
    assert warned[0].filename.endswith(("python.py", "runner.py", "callers.py", "_callers.py"))
