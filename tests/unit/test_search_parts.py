"""Parts of a search, with stand-ins for runs: what Optuna is asked, how rows become samples, what can be chosen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from raybench.errors import UserError
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.search import baseline, counting
from raybench.search.asked import Asked
from raybench.search.baseline import by_optuna
from raybench.search.cells import Cells, Sample, cells_of
from raybench.search.counting import Counting, sizes_of
from raybench.search.fit import fit
from raybench.search.space import Point, Space, samples
from raybench.storage.open import open_storage
from raybench.sweep.sweep import Sweep
from raybench.sweep.target import Amount
from tests.unit.errors import error_of
from tests.unit.result_rows import failure, row, trial
from tests.unit.sweeps import AXES

SPACE = Space(1000, {(1.0, None): 1000, (0.5, None): 500, (0.5, 6): 280}, 8, True)
ONE = {"datasets": "digits", "models": "test-convnet", "methods": "lamp", "strategies": "local"}


def sample(point: Point, got: float = 2.0, value: float = 90.0) -> Sample:
    return Sample(point, "0" * 16, 1.0, 2.0, got, 1 / got, None, value, 90.0)


class Runs:
    """Cells that end with the samples of `ended`; the others have a reason."""

    def __init__(self, *ended: Sample) -> None:
        self.ended, self.asked = {one.point: one for one in ended}, []

    def measured(self, points):
        self.asked += points
        return [self.ended[point] for point in points if point in self.ended]

    def why_not(self, point):
        return f"failed at depth {point.depth:g}"


def test_optuna_chooses_places_and_gets_what_their_cells_came_to(monkeypatch) -> None:
    whole, half, small = (Point(*place, 2.0) for place in SPACE.uncut)
    cells, told = Runs(sample(whole, value=91.0), sample(small, got=1.5)), []

    def search(sizes, count, seed, measure):
        told.append((sizes, count, seed))
        tries = [(1, 1), (1, 1), (0, 1), (0, 0), (1, 0), (0, 1)]  # of depths 0.5 and 1, of sizes 6 and 8
        told.extend(measure({"depth": depth, "size": size}) for depth, size in tries)

    monkeypatch.setattr(baseline, "optuna_search", search)
    ended, failed = by_optuna(cells, SPACE, Asked(Amount(2.0), ("depth", "resolution"), seed=3), 17)
    assert told == [({"depth": 2, "size": 2}, 17, 3), 91.0, 91.0, None, 0.0, 0.0, None]
    assert cells.asked == [whole, half, small], "each is run once, and what isn't there never"
    assert ended == [sample(whole, value=91.0), sample(small, got=1.5)]
    assert failed == [(half, "failed at depth 0.5")]


@pytest.fixture
def cells(tmp_path):
    seeds = [trial(seed=seed) for seed in (0, 1)]
    return Cells(None, seeds, str(tmp_path), lambda sweep, storage, cells: SimpleNamespace(interrupted=False))


def publish(cells: Cells, point: Point, *changes: dict) -> None:
    store = Store(open_storage(cells.storage))
    for one, more in zip(cells.trials, changes, strict=True):
        store.publish(row(cells._cell(one, point), **more))


def test_a_sample_is_the_mean_over_seeds_of_the_split_that_selects(cells) -> None:
    point = Point(1.0, None, 2.0)
    publish(cells, point, {"metric_final": 80.0, "metric_val": 70.0}, {"metric_final": 90.0, "metric_val": 74.0})
    (found,) = cells.measured([point])
    assert (found.value, found.final, found.trial_id) == (72.0, 85.0, cells._cell(cells.trials[0], point).trial_id)
    other = Point(1.0, None, 4.0)
    publish(cells, other, {"metric_final": 80.0, "metric_val": None}, {"metric_final": 90.0, "metric_val": None})
    assert cells.measured([other])[0].value == 85.0, "without fine-tuning nothing is selected: the test split"


def test_a_point_says_why_it_is_no_sample(cells) -> None:
    point, untimed = Point(1.0, None, 2.0), Point(1.0, None, 3.0)
    store = Store(open_storage(cells.storage))
    store.publish(row(cells._cell(cells.trials[0], point)))
    store.publish(Record.skipped(cells._cell(cells.trials[1], point), "no norms"))
    assert cells.measured([point]) == []
    assert cells.why_not(point) == "no norms"
    timed = replace(cells, trials=[one.model_copy(update={"target": "latency"}) for one in cells.trials])
    publish(timed, untimed, *[{"latency_ms": None, "timing_reason": "another cell ran"}] * 2)
    assert timed.measured([untimed]) == []
    assert timed.why_not(untimed) == "not timed: another cell ran"
    failed = Point(1.0, None, 5.0)
    for one in cells.trials:
        store.publish_attempt(failure(cells._cell(one, failed), message="no room"))
    assert cells.why_not(failed) == "RuntimeError: no room"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocols": ["raybench", "pruningbench"]},
         "protocols: found raybench, pruningbench; a search takes one (leave one in the sweep)"),
        ({"strategies": ["local", "global"]},
         "strategies: found local, global; a search takes one (leave one in the sweep)"),
        ({"base": {"from": "digits"}, "datasets": "cifar10", "transfer": ["none", "transfer-then-prune"]},
         "transfer: found none, transfer-then-prune; a search takes one (leave one in the sweep)"),
    ],
)  # fmt: skip
def test_a_search_has_one_of_each_axis(changes, message) -> None:
    sweep = Sweep.model_validate({**AXES, **ONE, **changes})
    assert error_of(cells_of, sweep, Amount(2.0), None) == message


@pytest.mark.parametrize(
    ("own", "task", "target", "sizes"),
    [
        (8, "classification", Amount(4.0), [None, 7, 6, 5, 4]),
        (8, "classification", Amount(4.0, "latency"), [None, 7, 6, 5, 4, 3, 2]),
        (8, "classification", Amount(1.0, "latency_ms"), [None, 7, 6, 5, 4, 3, 2]),
        (24, "classification", Amount(1.0, "latency_ms"), [None, *range(23, 6, -2)]),
        (224, "classification", Amount(4.0), [None, *range(216, 111, -16)]),
        (100, "classification", Amount(2.0), [None, 88, 80, 72]),
        (640, "detection", Amount(4.0), [None, *range(608, 319, -32)]),
    ],
)
def test_the_sizes_to_choose_from_go_down_to_the_one_that_meets_the_target_alone(
    monkeypatch, own, task, target, sizes
) -> None:
    monkeypatch.setattr(counting, "own_size", lambda entry, params: own)
    one = SimpleNamespace(dataset="digits", dataset_params={}, task=task)
    assert sizes_of(one, Asked(target, ("resolution",))) == sizes
    assert sizes_of(one, Asked(target, ("resolution",), sizes=(own, 6, 4))) == [None, 6, 4]


def test_a_size_that_is_not_known_is_no_dimension(monkeypatch) -> None:
    monkeypatch.setattr(counting, "own_size", lambda entry, params: None)
    one = SimpleNamespace(dataset="digits", dataset_params={}, task="classification")
    with pytest.raises(UserError, match="--dimensions resolution: the image size of digits isn't known"):
        sizes_of(one, Asked(Amount(2.0), ("resolution",)))


@pytest.mark.parametrize(("dimensions", "rest"), [(("depth",), "width"), (("depth", "width", "resolution"), None)])
def test_a_network_without_blocks_says_what_is_left_and_runs_where_its_data_is(monkeypatch, dimensions, rest) -> None:
    given = []

    def refuse(one, assignment, call, say):
        given.append(assignment)
        raise counting.NotSupported("it has no blocks")

    monkeypatch.setattr(counting, "in_this_process", refuse)
    sweep = Sweep.model_validate({**AXES, **ONE, "data_roots": {"digits": "/data"}, "resources": {"cpus": 3}})
    cells = Cells(sweep, [trial()], "here", print)
    left = rest or "width resolution"
    found = error_of(Counting(cells, Asked(Amount(2.0), dimensions), print, "cpu").check_reach)
    assert found == f"--dimensions depth: it has no blocks; without it: --dimensions {left}"
    ((assignment),) = given
    assert (assignment.storage, assignment.data_roots, assignment.cpus) == ("here", {"digits": "/data"}, 3)
    assert (assignment.gpus, assignment.device) == (0.0, "cpu")


@pytest.mark.parametrize(
    ("kind", "cost", "refused"),
    [("macs", 5.02, False), ("macs", 5.5, True), ("latency", 5.5, False), ("latency", 6.1, True)],
)
def test_times_may_scatter_where_macs_may_not(monkeypatch, kind, cost, refused) -> None:
    smallest = counting.Smallest(10.0, cost, "one block")
    monkeypatch.setattr(counting, "in_this_process", lambda *given: smallest)
    cells = Cells(Sweep.model_validate({**AXES, **ONE}), [trial()], "here", print)
    check = Counting(cells, Asked(Amount(2.0, kind), ("depth", "width")), print).check_reach
    if refused:
        found = error_of(check)
        assert f"expected at most {Amount(float(f'{10 / cost:.3g}'), kind)}, the cost of the smallest" in found
        assert "these dimensions (one block)" in found
    else:
        check()


def test_a_polynomial_has_the_degree_that_it_is_asked_for() -> None:
    at = [(x, y) for x in (0, 1, 2, 3) for y in (0, 1, 2, 3)]  # whole numbers are points, too
    cubic = fit(at, [x**3 + y for x, y in at], degree=3)
    assert len(cubic.coefficients) == 10
    assert cubic.residual < 1e-9
    assert len(fit(at, [x + y for x, y in at], degree=1).coefficients) == 3
    np.testing.assert_allclose(cubic([(1.5, 2.0)]), [1.5**3 + 2], atol=1e-9)


def test_samples_follow_haltons_sequence_from_its_first_term_on() -> None:
    """Term 1 in base 2 and 5 is 1/2 and 1/5, term 2 1/4 and 2/5; all are moved by what the seed draws."""
    deep, _, sized = np.random.default_rng(1).random(3)
    depths, sides = [0.1 * step for step in range(1, 11)], [*range(1, 10), None]
    space = Space(1000, {(depth, side): 1000.0 for depth in depths for side in sides}, 10, False)
    places = [
        (depths[int(10 * ((term + deep) % 1))], sides[int(10 * ((other + sized) % 1))])
        for term, other in ((1 / 2, 1 / 5), (1 / 4, 2 / 5), (3 / 4, 3 / 5))
    ]
    assert [(one.depth, one.size) for one in samples(space, 4.0, 3, 1)] == places
