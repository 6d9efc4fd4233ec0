"""The strategy `optimal`: a knapsack of widths, against every combination of widths of small networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from raybench import registry
from raybench.errors import UserError
from raybench.groups import surgery
from raybench.groups.cost import Cost, count_macs
from raybench.groups.trace import trace
from raybench.methods.protocols import Calibration
from raybench.pipeline.outputs import class_loss
from raybench.plan.plan import why_not
from raybench.scoring.scorer import Scoring
from raybench.selection.optimal import Knapsack
from raybench.selection.problem import Meter, Problem
from raybench.selection.select import select
from raybench.sweep.sweep import Sweep
from tests.oracles.knapsack import best_widths
from tests.pruning_nets import small_resnet, small_vit
from tests.unit.cuts import IMAGE, L2
from tests.unit.linear_networks import problem_of, whole
from tests.unit.result_rows import trial
from tests.unit.sweeps import AXES, problems_of


class Product:
    """MACs of a chain of layers: each multiplies the widths on both of its sides."""

    def __init__(self, sizes, each, ends=(3, 10)) -> None:
        self.sizes, self.each, self.ends = np.array(sizes), each, ends

    @property
    def macs_base(self) -> float:
        return float(self.macs(self.sizes))

    def macs(self, counts) -> np.ndarray:
        counts = np.asarray(counts, dtype=float)
        ends = [np.full((*counts.shape[:-1], 1), float(end)) for end in self.ends]
        wide = np.concatenate([ends[0], counts, ends[1]], axis=-1)
        return (wide[..., :-1] * wide[..., 1:]) @ np.array(self.each, dtype=float)


def sack_of(problem, scores) -> Knapsack:
    return Knapsack.of(problem, scores, whole(problem))


@pytest.mark.parametrize("target", [1.5, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_combination_of_widths_keeps_more(seed, target) -> None:
    rng = np.random.default_rng(seed)
    sizes = tuple(rng.integers(3, 9, 4))
    scores = [rng.gamma(0.7, size=size) for size in sizes]
    plain = problem_of(sizes, np.ones(4))
    cost = Product(sizes, rng.integers(1, 50, 5))
    problem = Problem.of(plain.groups, cost, "optimal")
    sack, goal = sack_of(problem, scores), problem.goal(target)
    if float(cost.macs(sack.least)) > goal:
        pytest.skip("the floors don't allow this target")
    counts = sack.solve(goal)
    best, widths = best_widths(scores, sack.least, cost.macs, goal)
    assert float(cost.macs(counts)) <= goal
    assert float(sack.importance(counts)) == pytest.approx(best, rel=1e-9), (counts, widths)


def test_a_knapsack_worked_by_hand() -> None:
    """A unit of a costs 3, of b 2, at most 7: two of b (8 + 6) and one of a (9) keep 23; a ranking keeps a's three."""
    problem = problem_of((3, 3), (3, 2), fixed=0.0)
    sack = sack_of(problem, [np.array([9.0, 8, 7]), np.array([8.0, 6, 1])])
    assert sack.solve(7.0).tolist() == [1, 2]
    assert float(sack.importance(np.array([1, 2]))) == 23
    assert sack.solve(6.0).tolist() == [1, 1]
    assert sack.solve(15.0).tolist() == [3, 3]


def test_groups_without_a_score_stay_whole_and_widths_are_multiples() -> None:
    problem = problem_of((8, 6, 9), (1, 1, 1), round_to=4)
    sack = sack_of(problem, [np.ones(8), None, np.arange(9.0)])
    assert [sack.widths(g).tolist() for g in range(3)] == [[4, 8], [6], [4, 8, 9]]
    assert sack.solve(15.0).tolist() == [4, 6, 4]
    assert sack.solve(18.0).tolist() == [4, 6, 8]
    wide = sack_of(problem_of((500,), (1,)), [np.ones(500)])
    assert len(wide.widths(0)) <= 65
    assert wide.widths(0)[[0, -1]].tolist() == [1, 500]
    assert wide.solve(333.0).tolist() == [333], "single units are exchanged after the knapsack"


@pytest.mark.parametrize(
    ("make", "schedule", "meter"),
    [
        (small_resnet, "progressive", Meter.macs),
        (small_vit, "iterative", Meter.macs),
        (small_vit, "one-shot", Meter.params),
    ],
)
def test_a_cut_meets_its_target_and_keeps_more_than_a_ranking(make, schedule, meter) -> None:
    model = make().eval()
    groups = trace(model, IMAGE)
    scoring = Scoring(L2, model)
    cuts = {
        strategy: select(scoring, IMAGE, groups, [3.0], strategy=strategy, schedule=schedule, meter=meter)[3.0]
        for strategy in ("optimal", "global")
    }
    cut, scores = cuts["optimal"], scoring.scorer(groups).scores()
    base, left = (cut.macs_base, cut.macs) if meter == Meter.macs else (cut.params_base, cut.params)
    assert cut.reason is None
    assert base / left == pytest.approx(3, rel=0.005)
    slim = copy.deepcopy(model)
    surgery.apply(slim, groups, cut.kept)
    assert count_macs(slim, IMAGE[:1]) == cut.macs

    def kept(one) -> float:
        units = (own[list(one.kept[group.name])].sum() for group, own in zip(groups, scores, strict=True))
        return float(sum(units))

    assert kept(cut) > kept(cuts["global"])


def test_a_target_below_the_floors_is_told_and_comes_as_near_as_they_allow() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    groups = trace(net, IMAGE)
    cut = select(Scoring(L2, net), IMAGE, groups, [50.0], strategy="optimal")[50.0]
    assert {len(units) for units in cut.kept.values()} == {1}
    assert cut.reason.startswith("floor: best reachable 6.000")


def test_the_exact_end_gives_up_as_little_importance_as_it_can() -> None:
    """The best widths for 4x cost 0.8 % less than they may; to swap units until they don't would lose a quarter."""
    model = small_vit().eval()
    groups = trace(model, IMAGE)
    cost, scores = Cost.measure(model, IMAGE, groups), Scoring(L2, model).scorer(groups).scores()
    problem = Problem.of(groups, cost, "optimal")
    sack, goal = sack_of(problem, scores), problem.goal(4.0)
    best = sack.solve(goal)
    cut = select(Scoring(L2, model), IMAGE, groups, [4.0], strategy="optimal")[4.0]
    counts = np.array([len(units) for units in cut.kept.values()])
    assert abs(cut.speedup / 4 - 1) <= 0.005
    assert float(sack.importance(counts)) >= 0.9 * float(sack.importance(best))


def test_other_targets_do_not_change_a_cut() -> None:
    model = small_vit().eval()
    groups = trace(model, IMAGE)
    both = select(Scoring(L2, model), IMAGE, groups, [2.0, 4.0], strategy="optimal")
    assert select(Scoring(L2, model), IMAGE, groups, [4.0], strategy="optimal")[4.0] == both[4.0]


def test_data_driven_criteria_are_scored_again_in_between() -> None:
    model = small_vit().eval()
    groups = trace(model, IMAGE)
    images = torch.randn(8, *IMAGE.shape[1:], generator=torch.Generator().manual_seed(1))
    data = Calibration(images, torch.arange(8) % 4, 4, class_loss, torch.Generator().manual_seed(0))
    scoring = Scoring(registry.importance.load("taylor")(), model, data)
    cut = select(scoring, IMAGE, groups, [2.0], strategy="optimal", schedule="iterative")[2.0]
    assert (cut.steps, cut.reason) == (10, None)


def test_what_has_no_knapsack_is_refused() -> None:
    assert why_not(trial(strategy="optimal")) is None
    (found,) = problems_of(Sweep, AXES | {"strategies": "optimal", "protocol": "pruningbench"})
    assert found == ("found 'optimal', expected a ranking: protocol pruningbench ranks channels", ("strategies",))
    ratio = {key: value for key, value in AXES.items() if key != "speedups"} | {"ratio": 0.5, "strategies": "optimal"}
    (found,) = problems_of(Sweep, ratio)
    assert found == ("found 'optimal', expected a ranking: a ratio is a share of channels, not a cost", ("strategies",))
    with pytest.raises(UserError, match=r"unknown strategy 'optimum'\. Did you mean 'optimal'\?"):
        select(Scoring(L2, small_resnet()), IMAGE, trace(small_resnet(), IMAGE), [2.0], strategy="optimum")
