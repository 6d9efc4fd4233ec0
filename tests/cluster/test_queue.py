"""What may start when, without Ray."""

from raybench.execution.causes import MAX_ATTEMPTS
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
