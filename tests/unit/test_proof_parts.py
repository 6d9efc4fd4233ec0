"""The numeric trial of groups by hand: its copies, images, precision, silence, limits and the order of its trials."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybench.groups import proof
from raybench.groups.follow import half
from raybench.groups.following import Choices
from raybench.groups.products import counted_macs
from raybench.groups.proof import _Trial
from raybench.groups.records import Group, Groups, Member
from raybench.groups.trace import trace

UNTRIED = "the first trials all failed, and more would take too long"
ELSE = "with fewer channels the network computes something else (a scale, an order of channels)"


def group(name: str, size: int = 4, *members: Member) -> Group:
    return Group(name, size, members)


def member(layer: str, kind: str, side: str, width: int, **more: Any) -> Member:
    return Member(layer, kind, side, width, np.arange(width), np.arange(width), **more)


class Through(nn.Module):
    """Linear 3 -> 4, `between`, linear 4 -> 2; over the last axis of anything."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between, self.first, self.last = between, nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def through_groups(width: int = 4, least: int = 1) -> Groups:
    members = member("first", "linear", "out", width), member("last", "linear", "in", width)
    return Groups((Group("first", width, members, "channels", least),))


def trial_of(model: nn.Module, image: Tensor, groups: Groups | None = None) -> _Trial:
    return _Trial(model.eval(), image, groups or through_groups(), Choices())


class Scripted:
    """Stands for a trial: those groups are wrong that `wrong` says; notes what was tried."""

    _most = 100

    def __init__(self, wrong: Callable[[list[str]], str], spent: bool = False) -> None:
        self._said, self.spent, self._count, self.tried = wrong, spent, 0, list[str]()

    def wrong(self, groups: list[Group]) -> str:
        self._count += 1
        self.tried.append(" ".join(g.name for g in groups))
        return self._said([g.name for g in groups])

    def good_among(self, groups: list[Group], wrong: dict[str, str]) -> list[Group]:
        return _Trial.good_among(self, groups, wrong)


NAMES = ("a.1", "a.20", "b.1", "a.3", "c")
TRIALS: dict[str, tuple[Scripted, dict[str, str], list[str]]] = {
    "all right": (Scripted(lambda names: ""), {}, ["a.1 a.20 b.1 a.3 c"]),
    "one of a kind": (
        Scripted(lambda names: "no" if "a.20" in names else ""),
        {"a.20": "no"},
        ["a.1 a.20 b.1 a.3 c", "a.1 a.20 a.3", "a.1", "a.20 a.3", "a.20", "a.3", "b.1", "c", "a.1 a.3 b.1 c"],
    ),
    "not together": (
        Scripted(lambda names: "both" if {"a.1", "c"} <= set(names) else ""),
        {"c": "both"},
        ["a.1 a.20 b.1 a.3 c", "a.1 a.20 a.3", "b.1", "c", "a.1 a.20 a.3 b.1 c", "a.1 a.20 a.3 b.1"],
    ),
    "none with another": (
        Scripted(lambda names: "more" if len(names) > 1 else ""),
        {"c": "more", "b.1": "more", "a.1": "more", "a.20": "more", "a.3": "more"},
        [
            "a.1 a.20 b.1 a.3 c", "a.1 a.20 a.3", "a.1", "a.20 a.3", "a.20", "a.3", "b.1", "c",
            "a.1 a.20 a.3 b.1 c", "a.1 a.20 a.3 b.1", "a.1 a.20 a.3",
        ],
    ),
    "no more work": (Scripted(lambda names: "no", spent=True), dict.fromkeys(NAMES, UNTRIED), [
        "a.1 a.20 b.1 a.3 c",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", TRIALS)
def test_all_are_tried_at_once_then_kinds_then_halves(monkeypatch, name: str) -> None:
    trial, wrong, tried = TRIALS[name]
    monkeypatch.setattr(proof, "_Trial", lambda *args: trial)
    groups = Groups(tuple(group(one) for one in NAMES))
    assert proof.disproved(nn.Identity(), torch.zeros(1), groups) == wrong
    assert trial.tried == tried


def test_what_is_undecided_after_the_last_trial_stays_whole() -> None:
    trial, wrong = Scripted(lambda names: "no"), dict[str, str]()
    trial._most = 2
    assert trial.good_among([group(one) for one in NAMES], wrong) == []
    assert trial.tried == ["a.1 a.20 b.1 a.3 c", "a.1 a.20", "b.1 a.3 c"]
    assert wrong == dict.fromkeys(NAMES, "no")


def test_limits_follow_from_the_work_of_one_run(monkeypatch) -> None:
    model, image = Through(), torch.zeros(1, 5, 3)
    trial = trial_of(model, image)
    macs = counted_macs(trial._model, trial._image)[0]
    assert macs == 16 * 5 * (3 * 4 + 4 * 2)
    monkeypatch.setattr(proof, "GIVE_UP", 7 * (macs + 3 * proof.OVERHEAD) + 1)
    monkeypatch.setattr(proof, "BUDGET", 11 * macs + 1)
    assert (trial._affordable, trial._most) == (7, 11)
    for count, spent in ((0, False), (7, False), (8, True)):
        trial._count = count
        assert trial.spent == spent
    for name, value in (("GIVE_UP", 0), ("BUDGET", 0)):
        monkeypatch.setattr(proof, name, value)
    low = trial_of(model, image)
    assert (low._affordable, low._most) == (1, 8)
    monkeypatch.setattr(proof, "BUDGET", 10**12)
    assert trial_of(model, image)._most == 80


def test_a_network_of_a_billion_macs_is_tried_sixty_times(monkeypatch) -> None:
    """Limits are work, not time: the same network gets the same answer on a busy machine."""
    monkeypatch.setattr(proof, "counted_macs", lambda model, image: (10**9, {}))
    trial = trial_of(Through(), torch.zeros(1, 3))
    assert (trial._most, trial._affordable) == (60, 60 * 10**9 // (10**9 + 3 * 5 * 10**6))


def test_images_of_a_trial_are_as_the_network_takes_them() -> None:
    """Few values leave ReLUs dead: vectors and sequences come several at a time, where the network takes them so."""
    vectors, sequences = trial_of(Through(), torch.zeros(2, 3)), trial_of(Through(), torch.zeros(1, 5, 3))
    assert [tuple(t._image.shape) for t in (vectors, sequences)] == [(16, 3), (16, 5, 3)]
    assert vectors._image.dtype == vectors._model.first.weight.dtype == torch.float64
    assert vectors._image.std() > 0.5
    assert not vectors.undecided
    images = trial_of(Through(), torch.zeros(2, 4, 5, 3))
    assert tuple(images._image.shape) == (1, 4, 5, 3)
    one = trial_of(Through(lambda x: x.reshape(1, *x.shape[1:])), torch.zeros(2, 3))
    assert tuple(one._image.shape) == (1, 3)
    assert not one.undecided


def test_places_in_a_table_are_left_as_they_are() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    tokens = torch.tensor([[1, 6, 2], [0, 0, 0]])
    trial = trial_of(model, tokens, Groups(()))
    assert torch.equal(trial._image, tokens[:1])
    assert not trial.undecided


def in_single(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(0, x.shape[1]), x.float()]) @ torch.eye(x.shape[1])


def test_a_network_that_names_its_type_is_tried_in_it() -> None:
    trial = trial_of(Through(in_single), torch.zeros(1, 3))
    assert (trial._kind, trial.undecided) == (torch.float32, False)
    assert trial.failure(list(trial._groups), half) == ""
    never = trial_of(Through(lambda x: x.half()), torch.zeros(1, 3))
    assert never.undecided


def test_random_outputs_decide_nothing_and_random_numbers_without_effect_do() -> None:
    wild = Through(lambda x: x * torch.rand(()))
    calm = Through(lambda x: x + 0 * torch.rand(x.shape))
    assert trial_of(wild, torch.zeros(1, 3)).undecided
    assert not trial_of(calm, torch.zeros(1, 3)).undecided
    assert proof.refuted(wild.eval(), torch.zeros(1, 3), through_groups()) is None
    assert proof.refuted(calm.eval(), torch.zeros(1, 3), through_groups()) == ""
    assert proof.refuted(Through(lambda x: x * x.shape[-1]).eval(), torch.zeros(1, 3), through_groups()) == ELSE


def failing(widths: set[int]) -> Callable[[Tensor], Tensor]:
    def between(x: Tensor) -> Tensor:
        if x.shape[-1] in widths:
            raise ValueError("not\nso narrow")
        return x

    return between


@pytest.mark.parametrize("width", [8, 3, 9])
def test_shapes_alone_are_run_with_half_some_and_the_fewest_units(width: int) -> None:
    """Of 16 units of which 3 stay: half is 8, the fewest 3, and 9 are what chance takes."""
    assert np.random.default_rng(1).integers(3, 17) == 9
    trial = trial_of(Through(failing({width}), 16), torch.zeros(1, 3), through_groups(16, 3))
    assert trial.wrong(list(trial._groups)) == "the network fails with fewer channels (not)"
    assert trial._count == 1
    right = trial_of(Through(failing({7, 10, 2}), 16), torch.zeros(1, 3), through_groups(16, 3))
    assert right.wrong(list(right._groups)) == ""


def test_where_shapes_alone_do_not_run_values_do() -> None:
    model = Through(lambda x: x * float(x.detach().sum() != 0.123))
    trial = trial_of(model, torch.zeros(1, 3))
    assert trial._shapes is None
    assert trial.wrong(list(trial._groups)) == ""
    wrong = trial_of(Through(lambda x: x * x.shape[-1] * float(x.detach().sum() != 0.123)), torch.zeros(1, 3))
    assert wrong.wrong(list(wrong._groups)) == ELSE
    assert trial_of(Through(), torch.zeros(1, 3))._shapes.first.weight.is_meta


def test_means_over_channels_see_what_is_left_alone() -> None:
    centred = trial_of(Through(lambda x: x - x.mean(-1, keepdim=True)), torch.zeros(1, 3))
    assert centred.failure(list(centred._groups), half) == ""
    nearly = trial_of(Through(lambda x: x - x.sum(-1, keepdim=True) / 4), torch.zeros(1, 3))
    assert nearly.failure(list(nearly._groups), half) == ""  # a sum of silenced channels is the sum of the others
    shifted = trial_of(Through(lambda x: x.roll(1, -1)), torch.zeros(1, 3))
    assert shifted.failure(list(shifted._groups), half) == ELSE


def test_outputs_are_the_same_within_rounding() -> None:
    trial = object.__new__(_Trial)
    whole = [torch.tensor([1.0, -200.0]), torch.zeros(0), torch.tensor([math.inf, 1.0])]
    for kind, near in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
        trial._kind = kind
        changed = {
            by: [whole[0].double() + torch.tensor([by * 200, 0.0]), *whole[1:]] for by in (0.9 * near, 1.1 * near)
        }
        assert trial._same(changed[0.9 * near], [whole[0].double(), *whole[1:]])
        assert not trial._same(changed[1.1 * near], [whole[0].double(), *whole[1:]])
    assert trial._same([torch.zeros(2)], [torch.zeros(2)])
    assert not trial._same([torch.full((2,), 1e-20)], [torch.zeros(2)])
    assert not trial._same([torch.zeros(2)], [torch.zeros(3)])
    assert not trial._same([], [torch.zeros(2)])
    assert trial._same([torch.ones(2)], [torch.tensor([math.inf, 5.0])])  # nothing to compare with


def test_large_networks_and_grouped_volumes_are_tried_in_single_precision(monkeypatch) -> None:
    both, single = (torch.float64, torch.float32), (torch.float32,)
    assert proof._precisions(Through()) == both
    assert proof._precisions(nn.Sequential(nn.Conv3d(4, 4, 1))) == both
    assert proof._precisions(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))) == both
    assert proof._precisions(nn.Sequential(nn.ReLU(), nn.Conv3d(4, 4, 1, groups=2))) == single
    count = sum(p.numel() for p in Through().parameters())
    for most, kinds in ((count, both), (count - 1, single)):
        monkeypatch.setattr(proof, "HUGE", most)
        assert proof._precisions(Through()) == kinds


def test_an_error_is_told_by_its_first_line_and_memory_is_nobodys_fault() -> None:
    assert proof._fails(ValueError("a\nb")) == "the network fails with fewer channels (a)"
    assert proof._fails(ValueError()) == "the network fails with fewer channels ()"
    assert proof._fails(ValueError("x" * 300)) == f"the network fails with fewer channels ({'x' * 120})"
    with pytest.raises(torch.OutOfMemoryError):
        proof._fails(torch.OutOfMemoryError("short"))


@pytest.mark.parametrize(
    ("image", "fewest", "expected"),
    [
        ((1, 3, 200, 200), 1, (1, 3, 64, 64)),
        ((1, 3, 200, 100), 1, (1, 3, 64, 64)),
        ((1, 3, 200, 200), 65, (1, 3, 96, 96)),
        ((1, 3, 200, 200), 161, (1, 3, 192, 192)),
        ((1, 3, 200, 200), 193, (1, 3, 200, 200)),
        ((1, 3, 200, 64), 1, (1, 3, 200, 64)),
        ((1, 2, 3, 65, 66), 1, (1, 2, 3, 64, 64)),
        ((1, 200, 200), 1, (1, 200, 200)),
    ],
)
def test_trials_take_the_smallest_image_on_which_the_network_runs(image, fewest: int, expected) -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if min(x.shape[-2:]) < fewest:
                raise RuntimeError("too small")
            return x

    whole = torch.rand(image)
    found = proof._smaller(Picky(), whole)
    assert tuple(found.shape) == expected
    assert torch.equal(found, whole[..., : expected[-2], : expected[-1]])
    assert found.is_contiguous()
    tokens = torch.ones(image, dtype=torch.int64)
    assert proof._smaller(Picky(), tokens) is tokens


@pytest.mark.parametrize(
    ("shape", "start", "numbers"),
    [
        ((2, 2), 0, [0, 1, 2, 3]),
        ((2, 2), 2, [2, 3, 4, 5]),
        ((2, 2), 3, [0, 1, 2, 3]),
        ((2, 4), 1, [0, 1, 2, 3, 4, 5, 0, 1]),
    ],
)
def test_weights_are_drawn_from_one_row_of_numbers(shape, start: int, numbers: list[int]) -> None:
    many = torch.arange(6) / 8
    weight = proof._like(nn.Parameter(torch.empty(shape)), many, torch.float32, start)
    spread = (3 / shape[1]) ** 0.5
    torch.testing.assert_close(weight.data, (torch.tensor(numbers) / 8 * 2 * spread - spread).view(shape))
    vector = proof._like(nn.Parameter(torch.empty(2), requires_grad=False), many, torch.float64, 1)
    torch.testing.assert_close(vector.data, torch.tensor([1, 2]) / 8 + 0.5)
    assert (vector.requires_grad, weight.requires_grad) == (False, True)
    empty = proof._like(nn.Parameter(torch.empty(2, 0)), many, torch.float32, 0)
    assert tuple(empty.shape) == (2, 0)


SILENT = {  # layer -> (it, its member, places of units 1 and 2 in the weight, in the bias)
    "conv out": (nn.Conv2d(3, 4, 1), member("0", "conv", "out", 4), (0, [1, 2]), [1, 2]),
    "conv in": (nn.Conv2d(4, 3, 1), member("0", "conv", "in", 4), (1, [1, 2]), []),
    "transposed out": (nn.ConvTranspose2d(3, 4, 1), member("0", "conv", "out", 4), (1, [1, 2]), [1, 2]),
    "transposed in": (nn.ConvTranspose2d(4, 3, 1), member("0", "conv", "in", 4), (0, [1, 2]), []),
    "grouped out": (nn.Conv2d(4, 4, 1, groups=2), member("0", "conv", "out", 4, folds=2), (0, [1, 2]), [1, 2]),
    "grouped in": (
        nn.Conv2d(8, 4, 1, groups=2),
        Member("0", "conv", "in", 8, np.arange(8), np.arange(8) % 4, 2),
        (1, [1, 2]),
        [],
    ),
    "depthwise": (nn.Conv2d(4, 4, 1, groups=4), member("0", "depthwise", "out", 4), (0, [1, 2]), [1, 2]),
    "transposed depthwise": (
        nn.ConvTranspose2d(4, 4, 1, groups=4), member("0", "depthwise", "out", 4), (0, [1, 2]), [1, 2],
    ),
    "linear out": (nn.Linear(3, 4), member("0", "linear", "out", 4), (0, [1, 2]), [1, 2]),
    "linear in": (nn.Linear(4, 3, bias=False), member("0", "linear", "in", 4), (1, [1, 2]), []),
    "norm": (nn.BatchNorm2d(4), member("0", "norm", "out", 4), (0, [1, 2]), [1, 2]),
    "norm without weights": (nn.BatchNorm2d(4, affine=False), member("0", "norm", "out", 4), None, []),
    "parameter": (nn.Linear(3, 4), member("0.weight", "parameter", "out", 4, axis=0), (0, [1, 2]), []),
    "parameter by width": (nn.Linear(4, 3), member("0.weight", "parameter", "out", 4), (1, [1, 2]), []),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_silence_takes_what_makes_and_what_reads_the_other_channels(name: str) -> None:
    layer, one, weights, biases = SILENT[name]
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 1, 2)
    model = nn.Sequential(layer)
    before = copy.deepcopy(model.state_dict())
    silent = proof._silenced(model, [group("g", 4, one)], {"g": np.array([0, 3])})[0]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if weights is None:
        assert silent.weight is None
        return
    axis, places = weights
    zeros = (silent.weight == 0).movedim(axis, 0).reshape(silent.weight.shape[axis], -1)
    assert zeros.all(1).nonzero().flatten().tolist() == places
    assert int(zeros.sum()) == len(places) * zeros.shape[1]
    bias = getattr(silent, "bias", None)
    assert ([] if bias is None else (bias == 0).nonzero().flatten().tolist()) == biases


def test_what_is_written_into_is_a_copy_made_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    weight, mean = model[0].weight, model[1].running_mean
    own = proof._own(model, "0.weight")
    assert own is model[0].weight is not weight
    assert isinstance(own, nn.Parameter)
    assert torch.equal(own, weight)
    kept = proof._own(model, "1.running_mean")
    assert kept is model[1].running_mean is not mean
    assert not isinstance(kept, nn.Parameter)
    groups = [group("g", 4, member("0", "linear", "out", 4), member("0", "linear", "in", 4))]
    silent = proof._silenced(model, groups, {"g": np.array([0, 3])})
    assert (silent[0].weight == 0).sum() == 12


def test_dropout_of_its_own_is_drawn_by_seed() -> None:
    model = Through(lambda x: nn.functional.dropout(x, 0.5, True)).eval()
    x = torch.ones(4, 3)
    state = torch.get_rng_state()
    first, again, other = proof._outputs(model, x), proof._outputs(model, x, 0), proof._outputs(model, x, 1)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert not first[0].requires_grad
    assert torch.equal(state, torch.get_rng_state())


def test_norms_of_a_proof_keep_their_statistics_where_there_are_none() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 2, 1)
    )
    groups = trace(model.eval(), torch.rand(2, 3, 8, 8))
    assert [g.name for g in groups] == ["0"]
