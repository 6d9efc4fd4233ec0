"""The loop of protocol pruningbench, step by step, over networks of known cost."""

from __future__ import annotations

import numpy as np
import pytest

from raybench.selection.problem import Problem
from raybench.selection.pruningbench import library
from tests.unit.linear_networks import Fixed, problem_of


def loop(problem: Problem, scores, targets, steps: int, slow: bool = False, count=None):
    """(solutions, number of steps that were computed) of the library's loop; `count`: MACs as it counts."""
    scorer = Fixed(*scores)
    count = count or problem.cost.macs
    base = int(count(problem.sizes))
    found = library(problem, scorer, targets, steps, base, lambda kept: int(count([len(k) for k in kept])), slow)
    return found, len(scorer.asked)


def kept_counts(solution) -> list[int]:
    return [len(units) for units in solution.kept]


@pytest.mark.parametrize("slow", [False, True])
def test_the_librarys_loop_stops_past_the_target_and_skips_what_would_empty_a_group(slow: bool) -> None:
    """Of a: 0-4 in step 1, the rest never; of b: 0-4 in step 3, when the lowest ten hold all that is left of a."""
    problem = problem_of((10, 10), (100, 100))
    scores = [np.arange(10.0), np.arange(10.0) + 10]
    found, computed = loop(problem, scores, [1.3, 1.33, 1.9, 1.995, 3.0], 4, slow)
    assert [(kept_counts(s), s.steps) for s in found.values()] == [
        ([5, 10], 1), ([5, 10], 1), ([5, 5], 3), ([5, 5], 3), ([5, 5], 4),
    ]  # fmt: skip
    assert found[1.9].kept[1].tolist() == [5, 6, 7, 8, 9]
    assert [s.reason for s in found.values()] == [
        "overshoot: the library stops 2.56% past the target as it counts (macs_tp)", None,
        "overshoot: the library stops 5.26% past the target as it counts (macs_tp)", None,
        "floor: best reachable 2.000 after 4 steps; groups a, b",
    ]  # fmt: skip
    assert computed == 4
    assert loop(problem, scores, [1.3], 4, True)[1] == 1  # a slow source is asked for no step more
    assert loop(problem, scores, [1.3], 40, False)[1] < 40


def test_the_librarys_own_count_decides() -> None:
    problem = problem_of((10, 10), (100, 100))
    scores = [np.arange(10.0), np.arange(10.0) + 10]
    found, _ = loop(problem, scores, [1.2], 20, count=lambda counts: np.asarray(counts) @ [60, 120])
    assert (kept_counts(found[1.2]), found[1.2].steps) == ([5, 10], 5)  # 1800 / 1500
    assert found[1.2].reason == "count: 1.200 as torch-pruning counts (macs_tp)"
    late, _ = loop(problem, scores, [1.25], 20, count=lambda counts: np.asarray(counts) @ [60, 120])
    assert (kept_counts(late[1.25]), late[1.25].steps) == ([4, 10], 6)  # ours is 1.05 times the target a step before
    known, _ = loop(problem, scores, [1.25], 20)
    assert (kept_counts(known[1.25]), known[1.25].reason) == ([6, 10], None)


def test_ties_leave_together_where_groups_are_ranked_with_others() -> None:
    tied = [np.array([1, 1, 1 + 1e-12, 1, 5, 5, 5, 5, 5, 5]), np.full(10, 9.0)]  # as equal as float32 can tell
    assert kept_counts(loop(problem_of((10, 10), (1, 1)), tied, [1.01], 10)[0][1.01]) == [6, 10]  # 2 wanted, 4 tied
    local = loop(problem_of((10, 10), (1, 1), "local"), tied, [1.01], 10)[0][1.01]
    assert (local.kept[0].tolist(), kept_counts(local)) == ([1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 9])


def test_the_librarys_floor_stops_only_groups_below_it() -> None:
    scores = [np.arange(20.0), np.arange(20.0) + 100]
    hard, _ = loop(problem_of((20, 20), (1, 1), "protected-global"), scores, [30.0], 40)
    assert kept_counts(hard[30.0]) == [1, 1]  # 2 is a tenth of 20: not below it yet
    steep, _ = loop(problem_of((20, 20), (1, 1), "protected-global", least=3), scores, [30.0], 40)
    assert kept_counts(steep[30.0]) == [3, 3]


def test_the_librarys_loop_rounds_what_stays_down() -> None:
    problem = problem_of((10, 10), (1, 1), "local", round_to=4)
    found, _ = loop(problem, [np.arange(10.0)[::-1], np.arange(10.0)], [1.1], 2)
    assert [units.tolist() for units in found[1.1].kept] == [[0, 1, 2, 3], [6, 7, 8, 9]]  # 5 would stay: 4 do
