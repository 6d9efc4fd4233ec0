"""What can't be followed keeps its width with one warning; the rest is pruned, exactly."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import raybench
from raybench.errors import NotSupported, UserError
from raybench.groups import proof, surgery
from raybench.groups.cost import Cost, count_macs
from raybench.groups.follow import follow
from raybench.groups.proof import disproved
from raybench.groups.records import Group, Groups
from raybench.groups.trace import trace
from raybench.models.offline import offline
from raybench.sweep.trial import DEFAULT_PARTS
from tests.oracles.grouping import check_groups, worst
from tests.pruning_nets import IMAGE, Chain, OwnAttention, shuffled

SMALL = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def groups_and_warnings(model: nn.Module, image: Tensor, **how) -> tuple[Groups, list[str]]:
    """The groups, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        groups = trace(model, image, **how)
    return groups, [str(one.message) for one in caught]


def check_exactly(model: nn.Module, image: Tensor, groups: Groups) -> None:
    """Half of every group removed: it runs, as many MACs as predicted, and what masking gives."""
    cost, slim = Cost.measure(model, image, groups), copy.deepcopy(model)
    kept = {g.name: range(max(g.least, g.size // 2)) for g in groups}
    surgery.apply(slim, groups, kept)
    assert count_macs(slim, image) == cost.macs(np.array([len(units) for units in kept.values()]))
    assert disproved(model, image, groups) == {}


def named_width(x: Tensor) -> Tensor:
    return x.reshape(len(x), 16, 16, 16) * 2


REASONS = {
    "flip": (lambda x: x.flip(1), r"flip|number"),
    "sum": (lambda x: x + x.roll(1, dims=1), r"roll"),
    "exchange": (lambda x: x[:, [1, 0, *range(2, 16)]], r"by their numbers"),
    "named width": (named_width, r"can't do with fewer|numbers written in code|fails with fewer"),
    "cumsum": (lambda x: x.cumsum(1), r"sum over the channels"),
    "fourier": (lambda x: torch.fft.fft(x, dim=1).real, r"fft"),
    "scaled by its width": (lambda x: shuffled(x) * x.shape[1], r"computes something else"),
}


@pytest.mark.parametrize(("between", "reason"), REASONS.values(), ids=REASONS)
def test_a_refusal_protects_what_it_touches_and_tells_it_once(between: Callable[[Tensor], Tensor], reason: str) -> None:
    model = Chain(between).eval()
    groups, messages = groups_and_warnings(model, IMAGE[:1])
    assert {"first", "third"} <= {g.name for g in groups}
    if "second" in groups.whole:
        assert len(messages) == 1
        assert re.search(reason, messages[0])
        assert pytest.approx(0.8, abs=0.2) == groups.share
        assert messages[0].startswith("Chain: second keeps its width: ")
        assert messages[0].endswith(f"; up to {100 * groups.share:.0f} % of its MACs can still be removed")
    check_exactly(model, IMAGE[:1], groups)
    assert worst(check_groups(model, IMAGE, groups, unit=1)) < 1e-5


def test_only_when_nothing_is_left_the_network_is_refused() -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).reshape(len(x), 8, -1).mean(2))

    with pytest.raises(NotSupported, match=r"^Nothing has no group of channels that can be pruned: .*8"):
        trace(Nothing().eval(), IMAGE[:1])


FAMILIES = {
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(weights=None),
    "detached": lambda: Chain(lambda x: x + x.detach().sigmoid()),
    "attention": OwnAttention,
}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_families_that_the_graph_cant_hold_are_cut_exactly(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    groups, messages = groups_and_warnings(model, SMALL)
    assert not any(word in message for message in messages for word in ("NoneType", "ZeroDivision", "torch-pruning"))
    assert len(messages) <= 1
    assert groups.share > 0.5
    check_exactly(model, SMALL, groups)
    assert [g.name for g in trace(copy.deepcopy(model), SMALL)] == [g.name for g in groups]


def test_yolo11_as_its_authors_ship_it_is_cut() -> None:
    """Its index lists grow without end in the library (13 GiB)."""
    with offline():  # else it leaves Image.open replaced for the tests after this one
        tasks = pytest.importorskip("ultralytics.nn.tasks")
    model = tasks.DetectionModel("yolo11n.yaml", verbose=False).eval()
    groups, messages = groups_and_warnings(model, SMALL)
    assert groups.share > 0.9
    assert len(messages) == 1
    assert "C2PSA" in messages[0]
    cost = Cost.measure(model, SMALL, groups)
    slim = copy.deepcopy(model)
    kept = {g.name: range(max(g.least, g.size // 2)) for g in groups}
    surgery.apply(slim, groups, kept)
    assert count_macs(slim, SMALL) == cost.macs(np.array([len(units) for units in kept.values()])) < cost.macs_base / 2


def test_the_numeric_trial_finds_the_one_wrong_group_among_many() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(6))).eval()
    groups = trace(model, torch.ones(1, 6))
    assert disproved(model, torch.ones(1, 6), groups) == {}
    wrong = list(groups)
    at = next(i for i, g in enumerate(wrong) if g.name == "3.0")
    out, into = wrong[at].members
    moved = type(into)(into.layer, into.kind, into.side, into.width, into.positions, np.roll(into.units, 1))
    wrong[at] = Group("3.0", 8, (out, moved))
    assert list(disproved(model, torch.ones(1, 6), Groups(tuple(wrong)))) == ["3.0"]


class Scaled(nn.Module):
    """Multiplies by widths, which no cut can undo: every group is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = layer(x)
            x = x * x.shape[1]
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("work", [10**12, 0])
def test_a_network_of_which_nothing_is_right_is_given_up_after_some_work(monkeypatch, work) -> None:
    monkeypatch.setattr(proof, "GIVE_UP", work)
    net = Scaled().eval()
    found = follow(net, IMAGE[:1], DEFAULT_PARTS)
    wrong = proof.disproved(net, IMAGE[:1], found.groups, found.choices)
    assert set(wrong) == {"first", "second"}
    assert (proof.UNTRIED in wrong.values()) == (work == 0)
    with pytest.raises(NotSupported, match="Scaled has no group of channels that can be pruned: "):
        trace(net, IMAGE[:1])


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ({"protect": ["first"]}, ["second", "third"]),
        ({"protect": ["*ir*"]}, ["second"]),
        ({"only": ["second", "thi?d"]}, ["second", "third"]),
        ({"only": ["*"], "protect": ["first"]}, ["second", "third"]),
    ],
)
@pytest.mark.parametrize("between", [torch.relu, shuffled], ids=["graph", "followed"])
def test_people_choose_by_name_or_glob(between: Callable[[Tensor], Tensor], how: dict, names: list[str]) -> None:
    groups = groups_and_warnings(Chain(between).eval(), IMAGE[:1], **how)[0]
    assert [g.name for g in groups] == names
    assert "named to keep its width" in groups.whole["first" if "protect" in how or "only" in how else "head"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"keep": ["frist"]}, r"keep: Chain has no module 'frist'\. Did you mean 'first'"),
        ({"only": ["secnd*"]}, r"only: Chain has no module 'secnd\*'\. Did you mean 'second'"),
        ({"only": "first"}, r"only: found str 'first', expected a list of names"),
    ],
)
def test_a_pattern_that_matches_nothing_lists_the_nearest(how: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        raybench.prune(Chain(torch.relu), IMAGE[:1], 2, **how)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.LazyConv2d(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x)


class Branches(Chain):
    def __init__(self) -> None:
        super().__init__(torch.relu)
        self.bright = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        x = self.bright(x) if x.var() > 0.01 else self.third(x)
        return self.head(x.mean((2, 3)))


class Circle(Chain):
    def __init__(self) -> None:
        super().__init__(torch.relu)

    def forward(self, x: Tensor) -> dict:
        found = {"all": [super().forward(x)]}
        found["all"].append(found)
        return found


@pytest.mark.parametrize(
    ("model", "image", "error", "message"),
    [
        (Circle(), IMAGE[:1], UserError, r"Circle: the dict that its forward returns holds itself"),
        (Lazy(), IMAGE[:1], UserError, r"Lazy: stem\.weight has no shape yet \(a lazy module\)"),
        (
            Chain(torch.relu).half(),
            IMAGE[:1],
            UserError,
            r"Chain has weights of float16; found images of float32.*\.float",
        ),
        (
            timm.create_model("vgg11", num_classes=4),
            IMAGE[:1],
            UserError,
            r"VGG doesn't run on images of 16x16: .*on \d+x",
        ),
        (
            Branches(),
            torch.zeros(1, 3, 16, 16),
            NotSupported,
            r"Branches: which layers run depends on .* \((bright|third) ",
        ),
    ],
    ids=["circle", "lazy", "half", "small", "branches"],
)
def test_what_the_first_runs_show_is_told_as_what_it_is(model, image, error, message) -> None:
    with pytest.raises(error, match=message):
        trace(model, image)
