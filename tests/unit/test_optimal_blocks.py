"""The strategy `optimal-blocks`: blocks that go whole in one knapsack with widths, against every combination."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import raybench
from raybench import registry
from raybench.cli.main import main
from raybench.errors import NotSupported
from raybench.groups import surgery
from raybench.groups.blocks import removable_blocks
from raybench.groups.cost import Cost, count_macs
from raybench.groups.trace import trace
from raybench.plan.plan import why_not
from raybench.results.store import Store
from raybench.selection import optimal_blocks
from raybench.selection.optimal_blocks import Block, BlockKnapsack, inner_groups
from raybench.selection.problem import Problem
from raybench.selection.shallow import params_of, without
from raybench.storage.open import open_storage
from raybench.sweep.sweep import Sweep
from tests.oracles.knapsack import best_blocks
from tests.pruning_nets import small_vit
from tests.unit.cuts import IMAGE
from tests.unit.linear_networks import problem_of
from tests.unit.result_rows import trial
from tests.unit.sweeps import AXES, problems_of


class Trunk:
    """A trunk of one shared width with blocks around which shortcuts go: MACs by hand.

    Group 0 is the trunk. Block b reads it, has the groups of `blocks[b]` one after the other, and writes to it.
    """

    def __init__(self, sizes, blocks, pixels) -> None:
        self.sizes, self.blocks, self.pixels = np.array(sizes), blocks, pixels

    @property
    def macs_base(self) -> float:
        return float(self.macs(self.sizes))

    def block(self, b, counts) -> np.ndarray:
        counts = np.asarray(counts, dtype=float)
        chain = [counts[..., 0], *(counts[..., g] for g in self.blocks[b]), counts[..., 0]]
        return self.pixels[b] * sum(left * right for left, right in itertools.pairwise(chain))

    def macs(self, counts, gone=frozenset()) -> np.ndarray:
        own = 27.0 * np.asarray(counts, dtype=float)[..., 0] + 10 * np.asarray(counts, dtype=float)[..., 0]
        return own + sum(self.block(b, counts) for b in range(len(self.blocks)) if b not in gone)


def knapsack(cost, scores) -> BlockKnapsack:
    plain = problem_of(cost.sizes, np.ones(len(cost.sizes)))
    problem = Problem.of(plain.groups, cost, "optimal")
    blocks = tuple(
        Block(f"b{b}", tuple(inside), lambda counts, b=b: cost.block(b, counts)) for b, inside in enumerate(cost.blocks)
    )
    return BlockKnapsack(problem, scores, blocks)


CASES = [
    (blocks, target, seed)
    for blocks in ([(1,), (2,), (3,)], [(1, 2), (3,)])
    for target in (1.3, 3)
    for seed in (0, 1, 2)
]


def case(blocks, target, seed):
    """(knapsack, its cost, goal, the best importance and set of blocks): some blocks matter little, the trunk much."""
    rng = np.random.default_rng(seed)
    sizes = tuple(rng.integers(3, 6, 4))
    scores = [rng.gamma(0.7, size=size) for size in sizes]
    scores = [3 * scores[0], *(own * rng.choice([0.05, 1.0]) for own in scores[1:])]
    cost = Trunk(sizes, blocks, rng.integers(1, 30, len(blocks)))
    goal = cost.macs_base / target
    best = best_blocks(scores, [1] * 4, lambda widths, out: float(cost.macs(widths, out)), blocks, goal)
    return knapsack(cost, scores), cost, goal, best


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(("blocks", "target", "seed"), CASES)
def test_no_combination_of_blocks_and_widths_keeps_more(blocks, target, seed, few, monkeypatch) -> None:
    """Where every set is judged, and where rounds propose them."""
    if not few:
        monkeypatch.setattr(optimal_blocks, "EVERY", 0)
    sack, cost, goal, (best, _) = case(blocks, target, seed)
    out, counts = sack.solutions(goal)[0]
    assert float(cost.macs(counts, out)) <= goal
    assert not any(counts[g] for b in out for g in blocks[b])
    assert sack.importance(counts) == pytest.approx(best, rel=1e-9)


def test_the_cases_have_best_sets_of_every_size() -> None:
    assert {len(case(*one)[3][1]) for one in CASES} >= {0, 1, 2}


class Useless(nn.Module):
    """A residual block whose inner channels have weights of about `size`."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(16, 60, 3, padding=1), nn.Conv2d(60, 16, 3, padding=1)
        with torch.no_grad():
            for conv in (self.inner, self.outer):
                conv.weight.mul_(size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.outer(torch.relu(self.inner(x))))


class Plain(nn.Module):
    """Three blocks, of which the middle one has tiny weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks = nn.Conv2d(3, 16, 3, padding=1), nn.Sequential(Useless(1), Useless(1e-4), Useless(1))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class Raw(registry.importance.load("magnitude-l1")):
    """Magnitudes that are not scaled by their group's mean."""

    normalize = "none"


def test_a_block_that_matters_little_goes_and_the_target_is_met_by_the_whole_network() -> None:
    net = Plain().eval()
    pruned = raybench.prune(net, IMAGE, 1.6, Raw(), strategy="optimal-blocks")
    assert (pruned.blocks, pruned.reason) == (("blocks.1",), None)
    assert pruned.speedup == pytest.approx(1.6, rel=0.005)
    assert count_macs(pruned.model, IMAGE[:1]) == pruned.macs == round(pruned.macs_base / pruned.speedup)
    assert pruned.macs_base == count_macs(net, IMAGE[:1])
    assert pruned.params == sum(p.numel() for p in pruned.model.parameters())
    assert raybench.prune(net, IMAGE, 1.6, Raw(), strategy="optimal").blocks == ()
    assert isinstance(net.blocks[1], Useless), "the network that was given is left as it was"
    kept = raybench.prune(net, IMAGE, 1.6, Raw(), strategy="optimal-blocks", keep=["blocks.1.inner"])
    assert kept.blocks == ()


def test_blocks_that_save_more_than_was_asked_are_tried_and_then_fewer(monkeypatch) -> None:
    """A block is a quarter of the network: for 1.1x it goes only if nothing else comes near enough."""
    net = Plain().eval()
    pruned = raybench.prune(net, IMAGE, 1.1, Raw(), strategy="optimal-blocks")
    assert pruned.reason is None
    assert pruned.speedup == pytest.approx(1.1, rel=0.005)
    monkeypatch.setattr(BlockKnapsack, "choices", lambda sack, goal: [("blocks.1",)])
    pruned = raybench.prune(net, IMAGE, 1.1, Raw(), strategy="optimal-blocks")
    assert pruned.reason == f"blocks: the 1 removed block alone gives {pruned.speedup:.3g}x"


def test_networks_without_blocks_are_refused_and_unweighed_ones_too(monkeypatch) -> None:
    flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(NotSupported, match="optimal-blocks: Sequential has no removable block"):
        raybench.prune(flat, IMAGE, 2, strategy="optimal-blocks")
    monkeypatch.setattr(Cost, "within", lambda cost, name, params: None)
    with pytest.raises(NotSupported, match="optimal-blocks: no block of Plain can be weighed"):
        raybench.prune(Plain(), IMAGE, 2, strategy="optimal-blocks")


def test_a_block_costs_what_a_network_without_it_lacks() -> None:
    for net in (Plain().eval(), small_vit().eval()):
        groups = trace(net, IMAGE)
        cost = Cost.measure(net, IMAGE, groups)
        for name in removable_blocks(net, IMAGE):
            block, slim = cost.within(name, params_of(net.get_submodule(name))), without(net, [name])
            assert count_macs(slim, IMAGE[:1]) == cost.macs_base - block.macs_base
            assert params_of(slim) == cost.params_base - block.params(cost.sizes)
            counts = np.maximum(cost.sizes // 2, 1)
            surgery.apply(net_cut := copy.deepcopy(net), groups, {
                group.name: np.arange(n) for group, n in zip(groups, counts, strict=True)
            })  # fmt: skip
            left = count_macs(without(net_cut, [name]), IMAGE[:1]), params_of(without(net_cut, [name]))
            assert left == (cost.macs(counts) - block.macs(counts), cost.params(counts) - block.params(counts))


def test_inner_groups_lie_inside_with_all_their_members() -> None:
    groups = trace(Plain().eval(), IMAGE)
    names = [group.name for group in groups]
    inside = [[names[g] for g in inner_groups(groups, f"blocks.{b}")] for b in range(3)]
    assert inside == [[f"blocks.{b}.inner"] for b in range(3)]
    assert inner_groups(groups, "blocks.1") != inner_groups(groups, "blocks")


def test_a_sweep_has_the_strategy_for_what_it_can_weigh() -> None:
    for changes in (
        {}, {"target": "params"}, {"target": "latency"}, {"target": "latency_ms"}, {"depth": 0.5}, {"image_size": 6},
        {"transfer": "prune-then-transfer"},
    ):  # fmt: skip
        assert why_not(trial(strategy="optimal-blocks", **changes)) is None
    small = trial(strategy="optimal-blocks", importance="small", params={"train": "small"})
    said = "strategy optimal-blocks chooses blocks; small is a dense network in place of a pruned one"
    assert why_not(small) == said
    (found,) = problems_of(Sweep, AXES | {"strategies": "optimal-blocks", "protocol": "pruningbench"})
    assert found[0].startswith("found 'optimal-blocks', expected a ranking")
    assert trial(strategy="optimal-blocks").trial_id != trial(strategy="optimal").trial_id


def test_a_cell_names_the_blocks_that_its_strategy_removed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(BlockKnapsack, "choices", lambda sack, goal: [("blocks.1",)])
    (tmp_path / "s.yaml").write_text(
        "name: s\ndatasets: digits\nmodels: test-vit\nmethods: magnitude-l2\nspeedups: 3\nstrategies: optimal-blocks\n"
        "recipe: {name: t, base: {epochs: 0, lr: 0.01}, finetune: {epochs: 0, lr: 0.01}}\n"
    )
    storage = str(tmp_path / "results")
    assert main(["run", str(tmp_path / "s.yaml"), "--local", "--quiet", "--storage", storage]) == 0
    (row,) = Store(open_storage(storage)).table().to_pylist()
    assert (row["status"], row["blocks_base"], row["blocks"], row["blocks_removed"]) == ("ok", 2, 1, '["blocks.1"]')
    assert row["speedup"] == pytest.approx(3, rel=0.005)
    net = raybench.load_pruned(tmp_path / "results" / row["artifact"])
    assert sum(p.numel() for p in net.parameters()) == row["params"]
