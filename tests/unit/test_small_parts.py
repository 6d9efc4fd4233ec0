"""The baseline `small` in the pipeline, as whole records and calls: costs of members, the cut, the network, the row."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raybench import registry
from raybench.datasets.open import facts_of
from raybench.groups.cost import count_macs
from raybench.models.build import build_model
from raybench.models.family import Member
from raybench.pipeline import cut, select, small
from raybench.pipeline.context import StageContext
from raybench.selection.records import Cut
from raybench.storage.local import LocalStorage
from tests.unit.result_rows import trial

CPU = torch.device("cpu")
FACTS = facts_of(registry.dataset.entry("digits"))
TASK = SimpleNamespace(data=FACTS)
MEMBER = Member("test-convnet", {"width": 6})


def of(**fields):
    return trial(model="test-convnet", params={"train": "small"}, **fields)


def test_costs_are_counted_of_the_built_network() -> None:
    net = build_model("test-convnet", FACTS, {"width": 6})
    expected = count_macs(net.eval(), torch.zeros(1, 1, 8, 8)), sum(p.numel() for p in net.parameters())
    before = torch.get_rng_state()
    assert small._costs(TASK)(MEMBER) == expected
    assert torch.equal(before, torch.get_rng_state())
    assert small._costs(TASK)(Member("test-convnet", {"width": 0})) is None


@pytest.mark.parametrize(
    ("target", "found", "goal", "which", "reason"),
    [
        ("macs", (500, 60), 500.0, 0, None),
        ("macs", (502, 60), 500.0, 0, None),
        ("macs", (520, 60), 500.0, 0, "small: test-convnet(width=6) is the family's nearest dense network, 1.92x"),
        ("params", (500, 60), 60.0, 1, None),
        ("params", (500, 40), 60.0, 1, "small: test-convnet(width=6) is the family's nearest dense network, 3.00x"),
    ],
)
def test_a_cut_names_the_network_and_its_costs(monkeypatch, target, found, goal, which, reason) -> None:
    calls, dense = [], nn.Sequential(nn.Linear(9, 10), nn.Linear(10, 1), nn.Linear(8, 1))  # 120 parameters
    monkeypatch.setattr(small, "nearest", lambda *args: calls.append(args) or (MEMBER, found))
    monkeypatch.setattr(small, "count_macs", lambda *args: calls.append(args) or 1000)
    monkeypatch.setattr(small, "_costs", {id(TASK): "costs"}.get)
    monkeypatch.setattr(small, "_costs", lambda task: ("costs", task))
    assert small.small_cut(of(target=target, model_params={"width": 12}), dense, TASK) == Cut(
        kept={}, target=2.0, speedup=1000 / found[0], macs_base=1000, macs=found[0], params_base=120,
        params=found[1], reason=reason, network='["test-convnet", {"width": 6}]',
    )  # fmt: skip
    (net, image), asked = calls
    assert (net, image.shape, image.device) == (dense, (1, 1, 8, 8), CPU)
    assert asked == ("test-convnet", {"width": 12}, (1000, 120), goal, which, ("costs", TASK))


def test_the_network_has_weights_of_the_trials_seed() -> None:
    chosen = Cut({}, 2.0, 2.0, 1, 1, 1, 1, network='["test-convnet", {"width": 6}]')
    assert small.member_of(chosen) == MEMBER
    before = torch.get_rng_state()
    found, again = (small.small_network(of(seed=3), chosen, TASK, CPU) for _ in range(2))
    other = small.small_network(of(seed=4), chosen, TASK, torch.device("cpu"))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1_000_006)
    expected = build_model("test-convnet", FACTS, {"width": 6})
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
        assert torch.equal(again.state_dict()[name], value)
    assert not torch.equal(found.conv1.weight, other.conv1.weight)
    there = small.small_network(of(), chosen, TASK, torch.device("meta"))
    assert {p.device.type for p in there.parameters()} == {"meta"}


def test_a_pass_publishes_the_network_of_each_speed_up(monkeypatch, tmp_path) -> None:
    calls, net, context = [], nn.Linear(1, 1), StageContext(LocalStorage(tmp_path))
    task = SimpleNamespace(data=FACTS, calibration=lambda *args: SimpleNamespace(images=torch.zeros(1, 1, 8, 8)))
    for name, answer in (("open_task", task), ("groups_of", ["group"]), ("check_image", None)):
        monkeypatch.setattr(select, name, lambda *args, answer=answer: answer)
    monkeypatch.setattr(select.base, "start_of", lambda *args: net)
    monkeypatch.setattr(select.base, "load", lambda *args: SimpleNamespace(folder="dense"))
    monkeypatch.setattr(select, "small_cut", lambda *args: calls.append(args) or args[0].speedup)
    monkeypatch.setattr(select, "_publish", lambda *args: calls.append(args))
    clock = iter([10.0, 14.0, 16.0])
    monkeypatch.setattr(select.time, "perf_counter", lambda: next(clock))
    trials = [of(speedup=speedup) for speedup in (2.0, 4.0)]
    select._select(trials, context)
    result = {"step_time_s": None, "timing_reason": "small selects no channels"}
    assert calls == [
        (trials[0], net, task), (trials[0], 2.0, context, result | {"seconds": 2.0}),
        (trials[1], net, task), (trials[1], 4.0, context, result | {"seconds": 3.0}),
    ]  # fmt: skip


def test_it_stands_in_place_of_the_cut_network(monkeypatch) -> None:
    calls, dense, start = [], nn.Sequential(nn.Linear(2, 3)), nn.Linear(4, 5).to("meta")
    monkeypatch.setattr(cut, "small_network", lambda *args: calls.append(args) or dense)
    assert cut.cut_network(of(), start, "cut", TASK) == cut.Pruned(dense, {"0": ((3, 2), (3, 2))})
    assert calls == [(of(), "cut", TASK, torch.device("meta"))]


def test_the_middle_between_two_widths_is_searched_for() -> None:
    asked, members = [], [Member("m", {"width": width}) for width in range(1, 9)]

    def costs(member: Member):
        width = member.params["width"]
        asked.append(width)
        return None if width == 5 else (width * 10, width)

    found = small._narrower(members, 35.0, 0, costs)
    assert (asked, [one.params["width"] for one, _ in found]) == ([5, 7, 6], [7, 6])
    asked.clear()
    found = small._narrower(members, 3.0, 1, lambda one: (0, one.params["width"]))
    assert [(one.params["width"], both) for one, both in found] == [(5, (0, 5)), (3, (0, 3)), (2, (0, 2))]
    assert [small._apart(*pair) for pair in ((4.0, 2.0), (2.0, 4.0), (3.0, 3.0))] == [2.0, 2.0, 1.0]
