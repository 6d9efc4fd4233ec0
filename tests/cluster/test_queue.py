"""What may start when, without Ray."""

from dataclasses import replace

import pytest

from raybench.execution.causes import MAX_ATTEMPTS
from raybench.execution.lengths import lengths
from raybench.execution.queue import POSTPONE_MAX_S, UnitQueue

from .fakes import failed, ok, plan, two_bases, unit


def taken(queue):
    """Keys of everything that may start now."""
    keys = []
    while (unit := queue.take()) is not None:
        keys.append(unit.key)
    return keys


def test_a_cell_starts_while_an_unrelated_base_still_trains():
    queue = UnitQueue(two_bases())
    assert taken(queue) == ["base-a", "base-b"]
    queue.end(ok(queue.units["base-a"]))
    assert taken(queue) == ["select-a"]
    queue.end(ok(queue.units["select-a"]))
    assert taken(queue) == ["cell-a-0", "cell-a-1"]
    assert "base-b" in queue.running


def test_the_longest_path_starts_first():
    queue = UnitQueue(two_bases(epochs=(9, 2, 1)))
    assert taken(queue) == ["base-b", "base-a"]


def test_every_unit_ends_once_and_after_what_it_needs():
    queue, order = UnitQueue(two_bases(cells=5)), []
    while not queue.finished:
        unit = queue.take()
        assert set(unit.needs) <= set(order)
        order.append(unit.key)
        queue.end(ok(unit))
    assert sorted(order) == sorted(queue.units)


def test_a_failed_stage_dooms_its_cells_once():
    queue = UnitQueue(two_bases())
    taken(queue)
    doomed = queue.end(failed(queue.units["base-a"]))
    assert [unit.key for unit in doomed] == ["cell-a-0", "cell-a-1"]
    assert queue.ended["select-a"].stage == "base"
    assert taken(queue) == []
    queue.end(ok(queue.units["base-b"]))
    assert taken(queue) == ["select-b"]
    assert not queue.finished


def test_a_cell_with_two_failed_needs_is_doomed_once():
    queue = UnitQueue(plan(unit("base-a"), unit("base-b"), unit("cell-c", "base-a", "base-b")))
    taken(queue)
    assert len(queue.end(failed(queue.units["base-a"]))) == 1
    assert queue.end(failed(queue.units["base-b"])) == []
    assert queue.finished


def test_a_cell_that_needs_a_failed_stage_and_what_is_made_of_it_is_doomed_once():
    whole = plan(unit("sparsify-a"), unit("select-a", "sparsify-a"), unit("cell-a", "sparsify-a", "select-a"))
    for units in (whole.units, (whole.units[0], whole.units[2], whole.units[1])):
        queue = UnitQueue(plan(*units))
        taken(queue)
        assert [one.key for one in queue.end(failed(queue.units["sparsify-a"]))] == ["cell-a"]
        assert queue.finished


def test_a_unit_whose_process_dies_is_started_again_last_and_a_bounded_number_of_times():
    queue = UnitQueue(two_bases())
    assert queue.take().key == "base-a"
    assert queue.lost("base-a", "killed") is None
    assert taken(queue) == ["base-b", "base-a"]
    for _ in range(MAX_ATTEMPTS - 2):
        assert queue.lost("base-a", "killed") is None
        assert taken(queue) == ["base-a"]
    outcome = queue.lost("base-a", "killed")
    assert (outcome.status, outcome.error_type) == ("failed", "WorkerDied")
    assert f"{MAX_ATTEMPTS} attempts" in outcome.error_message
    assert queue.lost("base-a", "killed") is None  # news of an ended unit changes nothing


def test_a_busy_unit_waits_longer_each_time_and_costs_no_attempt():
    queue = UnitQueue(plan(unit("base-a")))
    waits, now = [], 0.0
    for _ in range(7):
        queue.postpone(queue.take().key, now)
        assert queue.take() is None
        assert not queue.finished
        start = now
        while not queue.due(now):
            now += 1.0
        waits.append(now - start)
        queue.resume("base-a")
    assert waits == sorted(waits)
    assert waits[-1] == POSTPONE_MAX_S
    assert queue.attempts["base-a"] == 0


def test_a_unit_that_another_driver_ended_is_over_once_and_its_dependents_start_once():
    queue = UnitQueue(two_bases())
    queue.postpone(queue.take().key, 0.0)
    (waiting,) = queue.due(POSTPONE_MAX_S)
    queue.end(ok(waiting))
    assert queue.due(POSTPONE_MAX_S) == []
    started = taken(queue)
    queue.end(ok(waiting))
    assert started.count("select-a") == 1
    assert taken(queue) == []


def test_a_stopped_queue_starts_nothing_and_is_finished_when_the_running_are_over():
    queue = UnitQueue(two_bases())
    queue.take()
    queue.stopped = True
    assert queue.take() is None
    assert not queue.finished
    queue.give_back("base-a")
    assert queue.finished


def test_what_this_run_gave_up_is_not_planned_again():
    queue = UnitQueue(two_bases(), closed=frozenset({"base-a", "select-a", "cell-a-0", "cell-a-1"}))
    assert taken(queue) == ["base-b"]


def chains(*models, cells=2):
    """A base for each model, and cells that need it; the first model comes first in the plan."""
    units = [unit(f"base-{model}", model=model) for model in models]
    return plan(
        *units, *(unit(f"cell-{model}-{n}", f"base-{model}", model=model) for model in models for n in range(cells))
    )


@pytest.mark.parametrize(("seconds", "work", "order"), [
    ({}, {}, ["small", "large"]),  # equals, in the plan's order
    ({}, {("digits", "small"): 1e6, ("digits", "large"): 1e9}, ["large", "small"]),
    ({}, {("digits", "small"): 1e6}, ["small", "large"]),  # the mean stands for what isn't known
    ({"cell-large-0": 50.0, "cell-small-0": 2.0}, {}, ["large", "small"]),
    ({f"{kind}-small{n}": 50.0 for kind, n in (("base", ""), ("cell", "-0"), ("cell", "-1"))},
     {("digits", "small"): 1.0, ("digits", "large"): 9.0}, ["large", "small"]),  # in the pace of what was timed
])  # fmt: skip
def test_the_longest_cells_come_first_and_what_they_wait_for_before_them(seconds, work, order):
    whole = replace(chains("small", "large"), seconds=seconds)
    queue = UnitQueue(whole, work=work)
    assert taken(queue) == [f"base-{model}" for model in order]
    for model in order:
        queue.end(ok(queue.units[f"base-{model}"]))
    keys = taken(queue)
    assert sorted(keys) == sorted(unit.key for unit in whole.units if unit.kind == "cell")
    lengths_of = lengths(whole.units, seconds, work)
    assert [lengths_of[key] for key in keys] == sorted((lengths_of[key] for key in keys), reverse=True)


def test_units_that_ask_for_something_else_start_while_those_before_them_wait():
    queue = UnitQueue(chains("small", "large"), work={("digits", "large"): 9.0, ("digits", "small"): 1.0},
                      shape_of=lambda one: one.trials[0].model)  # fmt: skip
    assert queue.take(without={"large"}).key == "base-small"
    assert queue.take(without={"large"}) is None
    assert queue.take().key == "base-large"
    assert (queue.ready, queue.ready_of("large"), queue.next_of("large")) == (0, 0, None)


def together(unit):
    """The unit as two processes would run it together."""
    return replace(unit, trials=tuple(trial.model_copy(update={"processes": 2}) for trial in unit.trials))


def test_units_of_teams_and_of_single_processes_are_told_apart():
    queue = UnitQueue(chains("one", "two"), shape_of=lambda one: one.trials[0].model)
    for name in [key for key in queue.units if "two" in key]:
        queue.units[name] = together(queue.units[name])
    whole = UnitQueue(plan(*queue.units.values()), shape_of=lambda one: one.trials[0].model)
    assert (whole.take(team=True).key, whole.take(team=True)) == ("base-two", None)
    assert (whole.take(team=False).key, whole.take(team=False)) == ("base-one", None)
    while not whole.over(False):
        for one in [some for some in whole.running.values() if some.trials[0].processes == 1]:
            whole.end(ok(one))
        whole.take(team=False)
    assert set(whole.running) == {"base-two"}
    assert not whole.over(True)
    assert not whole.finished
    whole.stopped = True
    assert not whole.over(True)  # one still runs
    whole.end(failed(whole.units["base-two"]))
    assert whole.over(True)
    assert whole.finished
