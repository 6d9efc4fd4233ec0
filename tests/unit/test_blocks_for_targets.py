"""Blocks that go whole for targets of parameters and latency: against every combination, and as cells of sweeps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import raybench
from raybench import registry
from raybench.datasets.open import facts_of
from raybench.errors import NotSupported
from raybench.groups.blocks import removable_blocks, removed_blocks
from raybench.groups.cost import Cost, params_of
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.pipeline.depth import blocks_of
from raybench.pipeline.latency.meter import latency_meter
from raybench.scoring.scorer import Scoring
from raybench.selection.joint import Removable, select_jointly
from raybench.selection.meters import Counted
from raybench.selection.optimal_blocks import weighed
from raybench.selection.problem import Meter, Problem
from raybench.selection.records import Cut
from raybench.selection.shallow import Shallow, without
from raybench.storage.open import open_storage
from tests.oracles.knapsack import best_blocks
from tests.unit.cuts import IMAGE
from tests.unit.result_rows import trial
from tests.unit.sweeps import only_row, rows_of
from tests.unit.test_targets import weight_time


class Block(nn.Module):
    """A residual block of one inner convolution."""

    def __init__(self, trunk: int, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(trunk, width, 3, padding=1), nn.Conv2d(width, trunk, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.outer(torch.relu(self.inner(x))))


class Trunk(nn.Module):
    """A stem, blocks of some widths around which a shortcut goes, and a classifier."""

    def __init__(self, trunk: int, widths: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.blocks = nn.Conv2d(3, trunk, 3), nn.Sequential(*(Block(trunk, width) for width in widths))
        self.head = nn.Linear(trunk, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def uneven_time(module: nn.Module, given: Tensor) -> float:
    """A machine that computes four channels at a time: a pass takes as long as one of the next multiple of four."""
    if isinstance(module, nn.Conv2d):
        return -(-module.out_channels // 4) * -(-module.in_channels // 4) * 0.01
    own = sum(uneven_time(one, given) for one in module.modules() if isinstance(one, nn.Conv2d))
    blocks = sum(isinstance(one, Block) for one in module.modules())
    return own + 0.002 * blocks + 0.01 if list(module.children()) else 0.001


class Case:
    """A network, its groups, its removable blocks, and what a latency meter of each machine knows of it."""

    def __init__(self, net: nn.Module, storage, time=weight_time) -> None:
        self.net, self.groups = net.eval(), trace(net.eval(), IMAGE)
        self.names = removable_blocks(net, IMAGE)
        self.removable = Removable(self.names, lambda slim: trace(slim, IMAGE))
        self.cost = Cost.measure(net, IMAGE, self.groups)
        self.latency = latency_meter(net, IMAGE[:1], self.groups, storage, "net", time, self.removable)

    def sack(self, meter, scores):
        problem = Problem.of(self.groups, self.cost, "optimal-blocks", meter=meter(self.cost))
        found = weighed(
            problem, scores, self.names,
            lambda name: meter.within(self.cost, name, params_of(self.net.get_submodule(name))),
        )  # fmt: skip
        return found, problem

    def true_cost(self, meter):
        """(counts of all groups, blocks that go) -> what the network without them costs, traced and measured anew."""
        known = {}

        def cost(counts, gone) -> float:
            if gone not in known:
                slim = without(self.net, [self.names[b] for b in sorted(gone)])
                groups = trace(slim, IMAGE)
                places = [[group.name for group in self.groups].index(group.name) for group in groups]
                known[gone] = places, meter.left(slim, groups, IMAGE[:1])
            places, left = known[gone]
            return float(left.of(counts[places]))

        return cost


METERS = {
    "params": lambda case: Counted(Meter.params),
    "latency": lambda case: case.latency,
    "macs": lambda case: Counted(),
}


@pytest.mark.parametrize("target", [1.4, 2.5])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", METERS)
def test_no_combination_of_blocks_and_widths_keeps_more(kind, seed, target, tmp_path) -> None:
    case = Case(Trunk(3, (4, 3, 4), seed), open_storage(tmp_path))
    rng = np.random.default_rng(seed)
    scores = [rng.gamma(0.7, size=group.size) * rng.choice([0.1, 1.0]) for group in case.groups]
    meter = METERS[kind](case)
    sack, problem = case.sack(meter, scores)
    goal, inside = problem.goal(target), [block.inside for block in sack.blocks]
    cost = case.true_cost(meter)
    best, _ = best_blocks(scores, problem.floors, cost, inside, goal)
    gone, counts = sack.solutions(goal)[0]
    assert cost(counts, gone) <= goal * (1 + 1e-12)
    assert float(sack.spent(counts, gone)) == pytest.approx(cost(counts, gone), rel=1e-9)
    assert sack.importance(counts) == pytest.approx(best, rel=1e-9)


def test_on_a_machine_with_steps_no_set_of_blocks_keeps_much_more(tmp_path) -> None:
    """Where cost jumps every four channels; the knapsack's lines are rough there, its exchanges exact."""
    case = Case(Trunk(8, (8, 8, 4)), open_storage(tmp_path), uneven_time)
    rng = np.random.default_rng(3)
    scores = [rng.gamma(0.7, size=group.size) for group in case.groups]
    sack, problem = case.sack(case.latency, scores)
    cost = case.true_cost(case.latency)
    for target in (1.3, 2.0, 3.0):
        goal = problem.goal(target)
        best, _ = best_blocks(scores, problem.floors, cost, [block.inside for block in sack.blocks], goal)
        gone, counts = sack.solutions(goal)[0]
        assert cost(counts, gone) <= goal * (1 + 1e-12)
        assert sack.importance(counts) >= 0.99 * best


def test_the_time_of_a_network_without_blocks_is_that_of_the_rest(tmp_path) -> None:
    case = Case(Trunk(8, (12, 8, 16)), open_storage(tmp_path), uneven_time)
    whole = case.latency
    assert whole.blocks == case.names == ("blocks.0", "blocks.1", "blocks.2")
    assert whole.factors[4] > 0, "a block takes time beside its layers"
    for gone in (("blocks.1",), ("blocks.0", "blocks.2"), case.names):
        slim = without(case.net, gone)
        left = whole.standing(slim, trace(slim, IMAGE), IMAGE[:1])
        assert left.blocks == tuple(name for name in case.names if name not in gone)
        assert removed_blocks(slim) == gone
        own = [whole.within(case.cost, name, params_of(case.net.get_submodule(name))) for name in gone]
        assert left.meter.base == pytest.approx(whole.meter.base - sum(float(of(case.cost.sizes)) for of in own))
        assert left.meter.base == pytest.approx(uneven_time(slim, IMAGE), rel=0.1)
    assert whole.within(replace(case.cost, macs_base=1), "blocks.0", 1) is None, "the counts aren't known"


class Raw(registry.importance.load("magnitude-l1")):
    """Magnitudes that are not scaled by their group's mean."""

    normalize = "none"


@pytest.mark.parametrize("kind", METERS)
def test_a_target_of_any_cost_is_met_without_the_block_that_matters_little(kind, tmp_path) -> None:
    net = Trunk(16, (60, 60, 60))
    with torch.no_grad():
        for conv in (net.blocks[1].inner, net.blocks[1].outer):
            conv.weight.mul_(1e-4)
    case = Case(net, open_storage(tmp_path))
    meter = METERS[kind](case)
    how = {"strategy": "optimal-blocks", "meter": meter}
    cut = select_jointly(Scoring(Raw(), net), IMAGE[:1], case.groups, [1.6], case.removable, **how)[1.6]
    assert (cut.blocks, cut.blocks_base, cut.reason) == (("blocks.1",), 3, None)
    slim = without(net, cut.blocks)
    left = meter.left(slim, groups := trace(slim, IMAGE), IMAGE[:1])
    counts = np.array([len(cut.kept[group.name]) for group in groups])
    assert meter(case.cost).base / float(left.of(counts)) == pytest.approx(1.6, rel=0.005)


def test_blocks_that_a_depth_took_are_named_with_those_of_the_strategy() -> None:
    net = Trunk(4, (4, 4, 4)).eval()
    shallow = Shallow.of(net, ["blocks.2"], 3, IMAGE[:1])
    assert blocks_of(trial(strategy="optimal-blocks"), shallow.model, IMAGE) == ("blocks.0", "blocks.1")
    inner = Cut({}, 2.0, 2.0, 10, 5, 10, 5, blocks=("blocks.0",), blocks_base=2)
    both = shallow.of_whole(inner, 3.0)
    assert (both.blocks, both.blocks_base, both.macs_base) == (("blocks.0", "blocks.2"), 3, shallow.macs_base)
    none = without(net, [f"blocks.{b}" for b in range(3)])
    with pytest.raises(NotSupported, match=r"optimal-blocks: depth 0\.1 leaves cifar-resnet20 no block that could go"):
        blocks_of(trial(strategy="optimal-blocks", depth=0.1), none, IMAGE)


TEXT = """
name: s
datasets: digits
models: test-vit
methods: magnitude-l2
strategies: optimal-blocks
speedups: 3
targets: {params: 3, latency: 2}
depths: [1, 0.5]
recipe: {name: t, base: {epochs: 0, lr: 0.01}, finetune: {epochs: 0, lr: 0.01}, calibration_images: 16}
"""


def test_cells_of_every_target_and_depth_meet_it_and_load(tmp_path, monkeypatch) -> None:
    for place in ("table._time", "meter._time"):
        monkeypatch.setattr(f"raybench.pipeline.latency.{place}", weight_time)
    times = lambda nets, images, pace: [weight_time(one, IMAGE) for one in nets]  # noqa: E731
    monkeypatch.setattr("raybench.pipeline.asked.medians_ms", times)
    monkeypatch.setattr("raybench.pipeline.depth.medians_ms", times)
    rows, storage = rows_of(tmp_path, TEXT)
    assert len(rows) == 6
    for depth in (1.0, 0.5):
        for asked, got in (
            ({"speedup_target": 3.0}, lambda r: r["speedup"] / 3),
            ({"params_target": 3.0}, lambda r: r["params_base"] / r["params"] / 3),
            ({"latency_target": 2.0}, lambda r: (r["params_base"] / 1000 + 0.05) / r["latency_selected_ms"] / 2),
        ):
            row = only_row(rows, depth=depth, **asked)
            assert (row["status"], row["blocks_base"]) == ("ok", 2)
            assert got(row) == pytest.approx(1, rel=0.03 if "latency_target" in asked else 0.005)
            names = json.loads(row["blocks_removed"])
            assert len(names) == 2 - row["blocks"]
            assert len(names) >= (1 if depth < 1 else 0)
            net = raybench.load_pruned(storage / row["artifact"])
            assert sum(p.numel() for p in net.parameters()) == row["params"]
            assert removed_blocks(net) == tuple(names)


TRANSFER = """
name: s
datasets: digits
models: test-vit
methods: magnitude-l2
strategies: [optimal, optimal-blocks]
speedups: 3
targets: {params: 3}
base: {from: WEIGHTS}
transfer: prune-then-transfer
recipe: {name: t, base: {epochs: 0, lr: 0.01}, finetune: {epochs: 0, lr: 0.01}}
"""


def test_blocks_are_chosen_by_the_source_and_counted_in_the_target(tmp_path) -> None:
    """The source has 100 classes: its classifier is ten times as wide as that of the network which is cut."""
    torch.manual_seed(0)
    source = build_model("test-vit", replace(facts_of(registry.dataset.entry("digits")), classes=100))
    save_file(source.state_dict(), tmp_path / "source.safetensors")
    rows, storage = rows_of(tmp_path, TRANSFER.replace("WEIGHTS", "source.safetensors"))
    assert len(rows) == 4
    for row in rows:
        assert (row["status"], row["reason"]) == ("ok", None)
        got = row["speedup"] if row["speedup_target"] else row["params_base"] / row["params"]
        assert got == pytest.approx(3, rel=0.005)
        net = raybench.load_pruned(storage / row["artifact"])
        assert sum(p.numel() for p in net.parameters()) == row["params"]
        assert row["blocks_base"] == (2 if row["strategy"] == "optimal-blocks" else None)
