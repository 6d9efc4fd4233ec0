"""The steps of a selection over networks of known cost: who goes, in which order, and where it ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from raybench.errors import UserError
from raybench.groups.records import Groups
from raybench.groups.trace import trace
from raybench.scoring.scorer import Scoring
from raybench.selection.exact_end import fill
from raybench.selection.problem import Problem, RemainingUnits, held_back, plan_step
from raybench.selection.progressive import SimulatedPruning, at_ratio, exhausted, kept_of, progressive
from raybench.selection.rescoring import spread
from raybench.selection.select import select_ratio
from tests.unit.cuts import IMAGE, L2, cuts_of
from tests.unit.linear_networks import Fixed, Linear, group, pairs, problem_of, whole

A, B = np.array([5.0, 1, 3, 2]), np.array([4.0, 0, 6])


@pytest.mark.parametrize(
    ("strategy", "floors", "ratio", "expected", "threshold"),
    [
        ("global", (1, 1), 0.5, [(1, 1), (0, 1), (0, 3), (0, 2)], (3, 3)),  # 7 - int(3.5) = 4 units go
        ("global", (3, 1), 0.5, [(1, 1), (0, 1)], (3, 3)),  # a may lose one: its others are passed over
        ("global", (1, 3), 0.5, [(0, 1), (0, 3)], (2, np.nan)),  # b may lose none: it isn't ranked, nor counted
        ("local", (1, 1), 0.5, [(0, 1), (1, 1), (0, 3), (1, 0)], (2, 4)),  # in turn
        ("local", (1, 1), 0.3, [(0, 1), (0, 3), (1, 1)], (2, 0)),  # 4 - int(2.8) = 2, 3 - int(2.1) = 1
        ("global", (1, 1), 0.0, [], (np.nan, np.nan)),
        ("global", (4, 3), 1.0, [], (np.nan, np.nan)),
        ("global", (1, 1), 1.0, [(1, 1), (0, 1), (0, 3), (0, 2), (1, 0)], (6, 6)),
    ],
)
def test_a_step_removes_the_lowest_scores_of_each_scope_down_to_the_floors(
    strategy, floors, ratio, expected, threshold
) -> None:
    problem = problem_of((4, 3), (1, 1), strategy)
    problem.floors[:] = floors
    step = plan_step(problem, [A, B], whole(problem), ratio, {})
    assert pairs(step) == expected
    np.testing.assert_array_equal(step.threshold, threshold)
    assert step.group.dtype == step.unit.dtype == np.int64


def test_scopes_take_turns_by_the_share_that_they_have_lost() -> None:
    problem = problem_of((4, 2), (1, 1), "local")
    step = plan_step(problem, [np.arange(4.0), np.arange(2.0)], whole(problem), 0.75, {})
    # a: units 0, 1, 2 at 1/3, 2/3, 1; b: unit 0 (its floor is 1) at 1, after a's of the same share
    assert pairs(step) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_later_steps_count_from_the_units_at_the_start() -> None:
    problem, initial = problem_of((4, 3), (1, 1)), {}
    alive = whole(problem)
    first = plan_step(problem, [A, B], alive, 0.3, initial)
    assert (pairs(first), initial) == ([(1, 1), (0, 1), (0, 3)], {0: 7})
    for g, u in pairs(first):
        alive[g][u] = False
    second = plan_step(problem, [A, B], alive, 0.5, initial)
    assert pairs(second) == [(0, 2)]  # 4 left, int(7 * 0.5) = 3 stay
    assert pairs(plan_step(problem, [A, B], alive, 0.3, initial)) == []


def test_groups_without_scores_take_no_part() -> None:
    problem = problem_of((4, 3, 2), (1, 1, 1))
    step = plan_step(problem, [None, B, None], whole(problem), 0.5, {})
    assert pairs(step) == [(1, 1), (1, 0)]  # of its own 3 units alone: 3 - int(1.5) = 2
    np.testing.assert_array_equal(step.threshold, [np.nan, 4, np.nan])
    none = plan_step(problem, [None, None, None], whole(problem), 0.5, {})
    assert pairs(none) == []
    assert np.isnan(none.threshold).all()


def test_ties_go_by_group_and_unit_and_all_of_them_at_once() -> None:
    problem = problem_of((40, 40), (1, 1))
    scores = [np.arange(40) % 2.0, np.ones(40)]
    step = plan_step(problem, scores, whole(problem), 0.3, {})  # 24 of 80: 20 zeros, then the tied ones
    low = [(0, u) for u in range(0, 40, 2)]
    tied = [(0, u) for u in range(1, 40, 2)] + [(1, u) for u in range(40)]
    assert pairs(step) == low + tied[:19] + tied[20:59]  # each group keeps one, the last in order
    units = RemainingUnits([0, 1], scores, whole(problem))
    assert (units.count, units.nth(20), units.nth(21)) == (80, 0.0, 1.0)
    assert list(zip(*(x.tolist() for x in units.lowest(22)), strict=True)) == low + tied[:2]


def test_remaining_units_are_counted_and_named_within_their_groups() -> None:
    alive = [np.array([True, False, True, True]), np.ones(2, dtype=bool), np.array([True, True, False])]
    units = RemainingUnits([0, 2], [A, None, B], alive)
    assert (units.count, units.nth(1), units.nth(2), units.nth(5)) == (5, 0.0, 2.0, 5.0)
    group, unit = units.up_to(3.0)
    assert (group.tolist(), unit.tolist()) == ([2, 0, 0], [1, 3, 2])
    group, unit = units.lowest(4)
    assert (group.tolist(), unit.tolist()) == ([2, 0, 0, 2], [1, 3, 2, 0])


@pytest.mark.parametrize(
    ("size", "strategy", "least", "floor"),
    [(30, "protected-global", 1, 3), (31, "protected-global", 1, 4), (5, "protected-global", 1, 1),
     (30, "protected-global", 8, 8), (30, "global", 1, 1), (30, "global", 2, 2), (30, "local", 1, 1)],
)  # fmt: skip
def test_a_floor_is_a_tenth_rounded_up_and_never_below_what_the_group_needs(size, strategy, least, floor) -> None:
    problem = problem_of((size,), (1,), strategy, least=least)
    assert problem.floors.tolist() == [floor]
    assert problem.ties_go == (strategy != "local")


def test_scopes_follow_the_strategy() -> None:
    like, other = group("a", 4), group("c", 4, kind="linear")
    groups = Groups((like, group("b", 6), other, group("d", 4, folds=2)))
    cost = Linear(np.ones(4), np.array([4, 6, 4, 4]))
    scopes = {s: Problem.of(groups, cost, s).scopes.tolist() for s in ("global", "local", "isomorphic")}
    assert scopes == {"global": [0, 0, 0, 0], "local": [0, 1, 2, 3], "isomorphic": [0, 0, 1, 2]}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((10, 7), (10, 8)), ((9, 6), (8, 8)), ((9, 5), (8, 4)), ((6, 6), (8, 8)), ((5, 2), (4, 4)), ((1, 1), (4, 4)),
     ((10, 11), (10, 11)), ((9, 10), (8, 11))],
)  # fmt: skip
def test_counts_are_rounded_to_the_nearest_multiple_above_the_floor(counts, expected) -> None:
    """Halves go up; a whole group stays whole, whatever its size; the least is the floor's next multiple, 4."""
    problem = problem_of((10, 11), (1, 100), "protected-global", round_to=4)
    assert tuple(problem.rounded(np.array(counts))) == expected
    assert problem.spent(np.array([counts]))[0] == expected[0] + 100 * expected[1]
    plain = problem_of((10, 11), (1, 100), "protected-global")
    assert tuple(plain.rounded(np.array(counts))) == counts


def test_what_holds_a_cut_back_is_named_by_what_it_could_still_save() -> None:
    problem = problem_of((4, 4, 4, 4, 4, 4, 4), (1, 7, 3, 6, 5, 2, 9))
    counts = np.array([2, 2, 2, 2, 2, 1, 2])  # f has one unit left: nothing more to save there
    scores = [np.ones(4)] * 6 + [None]
    assert held_back(problem, counts, scores) == "groups b, d, e, c, a and 1 more; without a score: g"
    assert held_back(problem, counts, [np.ones(4), *[None] * 6]).startswith(
        "groups a; without a score: b, c, d, e, f a"
    )
    assert held_back(problem_of((4, 4), (1, 2)), np.array([2, 2]), [A, A]) == "groups b, a"


def test_a_path_counts_down_and_removed_units_keep_their_order() -> None:
    problem = problem_of((4, 3), (1, 1))
    simulated = SimulatedPruning(problem)
    step = plan_step(problem, [A, B], simulated.alive, 0.5, {})
    assert simulated.path(step).tolist() == [[4, 3], [4, 2], [3, 2], [2, 2], [1, 2]]
    simulated.remove(step.group[:3], step.unit[:3])
    assert simulated.counts.tolist() == [2, 2]
    assert simulated.removed == [[1, 3], [1]]
    ordered = simulated.order([A, None])
    assert [units.tolist() for units in ordered] == [[1, 3, 2, 0], [1, 0, 2]]
    assert [units.tolist() for units in kept_of(ordered, np.array([2, 1]))] == [[0, 2], [2]]
    tied = SimulatedPruning(problem_of((40,), (1,))).order([np.arange(40) % 2.0])
    assert tied[0].tolist() == [*range(0, 40, 2), *range(1, 40, 2)]


def test_the_progressive_schedule_stops_in_the_first_step_that_reaches_each_target() -> None:
    problem = problem_of((100, 100), (1, 1), "protected-global")
    scorer = Fixed(np.arange(100.0), np.arange(100.0) + 0.5)
    found = progressive(problem, scorer, [1.25, 2.0, 200.0], 8)
    assert [(len(s.kept[0]) + len(s.kept[1]), s.steps) for s in found.values()] == [(160, 2), (100, 4), (20, 8)]
    assert found[2.0].kept[0].tolist() == found[2.0].kept[1].tolist() == list(range(50, 100))
    assert (found[1.25].reason, found[2.0].reason) == (None, None)
    assert found[200.0].reason == "floor: best reachable 10.000; groups a, b"
    assert [sum(a.sum() for a in asked) for asked in scorer.asked] == [200, 175, 150, 125, 100, 75, 50, 25]
    alone = Fixed(*scorer.found)
    assert progressive(problem, alone, [2.0], 8)[2.0].kept[0].tolist() == found[2.0].kept[0].tolist()
    assert len(alone.asked) == 4  # nothing is scored after the last target is met


def test_a_target_just_out_of_reach_has_no_reason() -> None:
    simulated = SimulatedPruning(problem_of((10,), (100,), fixed=0.0))
    simulated.remove(np.zeros(9, dtype=int), np.arange(9))
    assert exhausted(simulated, [np.arange(10.0)], 10.04, 7).reason is None
    missed = exhausted(simulated, [np.arange(10.0)], 10.06, 7)
    assert (missed.reason, missed.steps, missed.kept[0].tolist()) == (
        "floor: best reachable 10.000; groups a", 7, [9],
    )  # fmt: skip
    assert exhausted(simulated, [np.arange(10.0)], 9.94, 7).reason is not None


def test_a_ratio_removes_that_share_in_one_step_and_rounds_it() -> None:
    problem = problem_of((10, 20), (1, 1), "local", round_to=4)
    found = at_ratio(problem, Fixed(np.arange(10.0), np.arange(20.0)[::-1]), 0.3)
    assert [units.tolist() for units in found.kept] == [list(range(2, 10)), list(range(16))]  # 7 -> 8, 14 -> 16
    assert (found.reason, found.steps) == (None, 1)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, -0.5])
def test_a_ratio_leaves_something_and_takes_something(ratio: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(UserError, match=f"a ratio must lie between 0 and 1; found {ratio}"):
        select_ratio(Scoring(L2, model), IMAGE, trace(model, IMAGE), ratio)


def filled(problem: Problem, scores, ratio: float, target: float):
    """`fill` within one step from the whole network."""
    simulated = SimulatedPruning(problem)
    step = plan_step(problem, scores, simulated.alive, ratio, {})
    return fill(problem, simulated.path(step), simulated.order(scores), scores, step.threshold, target)


def test_the_end_of_a_step_prefers_the_unit_nearest_to_the_threshold() -> None:
    """Removing one more unit of a, b or c meets the target equally; their scores differ."""
    problem = problem_of((10, 10, 10, 10), (100, 1, 1, 1), fixed=0.0)
    scores = [np.arange(10) + 0.0, np.full(10, 7.0), np.full(10, 5.5), np.full(10, 9.0)]
    scores[1][0], scores[2][0], scores[3][0] = 6.5, 5.2, 8.0
    goal = 1030 - 501
    counts, reason = filled(problem, scores, 6 / 40, 1030 / goal)
    assert (counts.tolist(), reason) == ([5, 10, 9, 10], None)  # c's first unit, 5.2, is nearest to 5


@pytest.mark.parametrize("seed", range(6))
def test_the_end_of_a_step_comes_as_near_as_any_counts_when_units_are_small(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(4, 8, 3)
    problem = problem_of(tuple(sizes), tuple(generator.integers(20, 60, 3)), fixed=float(generator.integers(0, 50)))
    scores = [generator.random(size) for size in sizes]
    every = np.array(list(itertools.product(*(range(1, s + 1) for s in sizes))))
    for target in (1.3, 1.7, 2.2):
        counts, reason = filled(problem, scores, 1.0, target)
        misses = np.abs(problem.goal(target) / problem.cost.macs(every) - 1)
        ours = abs(problem.goal(target) / problem.cost.macs(counts) - 1)
        assert (reason is None) == (ours <= 0.005)
        assert ours <= 0.001 or ours <= misses[(np.abs(every - counts).sum(axis=1) <= 2)].min() + 1e-12
        assert ours <= 0.005 or misses.min() > 0.001


def swaps(problem: Problem, counts: np.ndarray) -> np.ndarray:
    """`counts` with one group changed by one step of `round_to` and another by any number of steps."""
    step, size = problem.round_to, len(counts)
    found = [counts]
    for g, h in itertools.permutations(range(size), 2):
        for one in (-step, step):
            for other in range(-int(max(problem.sizes)), int(max(problem.sizes)) + 1, step):
                row = counts.copy()
                row[g] += one
                row[h] += other
                found.append(row)
    rows = np.array(found)
    rows = rows[((rows >= problem.floors) & (rows <= problem.sizes)).all(axis=1)]
    return rows[(rows == problem.rounded(rows)).all(axis=1)]


@pytest.mark.parametrize("round_to", [1, 2, 4])
@pytest.mark.parametrize("seed", range(8))
def test_a_miss_has_no_nearer_swap_of_a_costly_unit_against_cheap_ones(round_to: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = tuple(int(size) * round_to for size in generator.integers(3, 9, 3))
    costs = (int(generator.integers(300, 900)), int(generator.integers(100, 300)), int(generator.integers(10, 40)))
    problem = problem_of(sizes, costs, round_to=round_to)
    scores = [generator.random(size) for size in sizes]
    missed = 0
    for target in np.linspace(1.1, 4, 12):
        counts, reason = filled(problem, scores, 1.0, float(target))
        errors = np.abs(problem.goal(target) / problem.cost.macs(swaps(problem, counts)) - 1)
        ours = abs(problem.goal(target) / problem.cost.macs(counts) - 1)
        assert (counts == problem.rounded(counts)).all()
        assert (reason == "granularity") == (ours > 0.005)
        assert ours <= 0.005 or errors.min() >= ours - 1e-12
        missed += ours > 0.005
    assert missed or round_to == 1


def test_iterative_selections_score_ten_times() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(24, 5)).eval()  # fmt: skip
    _, cuts = cuts_of(model, [1.5], schedule="iterative")
    assert (cuts[1.5].steps, cuts_of(model, [1.5])[1][1.5].steps > 50) == (10, True)


def test_what_a_group_lacks_a_score_for_stays_whole() -> None:
    problem = problem_of((6, 6), (10, 1))
    counts, _ = filled(problem, [np.arange(6.0), None], 1.0, 66 / 25)
    assert counts.tolist() == [2, 6]


def test_spread_puts_scores_back_in_their_places() -> None:
    found = spread([np.array([7.0, 8.0]), None], [np.array([True, False, True]), np.ones(2, dtype=bool)])
    assert (found[0].tolist(), found[1]) == ([7.0, 0.0, 8.0], None)
