"""Short units are assigned several at a time, long and unknown ones alone."""

import pytest

from raybench.execution.batches import BATCH_S, LONGEST_S, MOST, Batches
from raybench.execution.queue import UnitQueue
from raybench.progress.outcome import Outcome

from .fakes import ok, plan, unit


def taken(queue, batches, workers=2):
    return [unit.key for unit in batches.take(queue, lambda unit: workers)]


def cells(number):
    return [unit(f"cell-{n:03}") for n in range(number)]


def knowing(kind, seconds):
    batches = Batches()
    batches.note(unit(f"{kind}-x"), Outcome(f"{kind}-x", kind, "ok", seconds=seconds))
    return batches


def test_a_unit_of_unknown_duration_is_alone():
    queue = UnitQueue(plan(*cells(100)))
    assert taken(queue, Batches()) == ["cell-000"]


@pytest.mark.parametrize(
    ("seconds", "length"), [(0.2, BATCH_S / 0.2), (3.0, 5), (BATCH_S, 1), (1000.0, 1), (0.001, MOST)]
)
def test_a_batch_lasts_a_quarter_of_a_minute(seconds, length):
    queue = UnitQueue(plan(*cells(4 * MOST)))
    assert len(taken(queue, knowing("cell", seconds))) == pytest.approx(length, abs=1)


def test_where_processes_start_slowly_batches_last_longer_than_that():
    for seconds, lasts in ((3.0, BATCH_S), (40.0, 60.0), (1000.0, LONGEST_S)):
        batches = knowing("cell", 0.5)
        batches.started(seconds)
        assert len(taken(UnitQueue(plan(*cells(4000))), batches)) == pytest.approx(lasts / 0.5, abs=1)


def test_the_last_units_are_shared_by_the_workers():
    queue, batches, lengths = UnitQueue(plan(*cells(40))), knowing("cell", 0.01), []
    while keys := taken(queue, batches):
        lengths.append(len(keys))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 10
    assert lengths[-4:] == [1, 1, 1, 1]
    assert sum(lengths) == 40


def test_a_unit_of_another_kind_waits_for_a_batch_of_its_own():
    stage, both = unit("select-a"), cells(8)
    queue = UnitQueue(plan(stage, *both))
    assert taken(queue, knowing("cell", 0.1)) in (["select-a"], ["cell-000", "cell-001"])


def test_an_unknown_unit_ends_a_batch_of_known_ones():
    queue = UnitQueue(plan(*cells(20), *(unit(f"base-{n}", epochs=(0, 0, 0)) for n in range(20))))
    batches = knowing("cell", 0.1)
    while keys := taken(queue, batches):
        kinds = {key.partition("-")[0] for key in keys}
        assert kinds == {"cell"} or len(keys) == 1


def test_units_that_failed_say_nothing_about_durations():
    batches = Batches()
    batches.note(unit("cell-x"), Outcome("cell-x", "cell", "failed", seconds=0.01))
    assert len(taken(UnitQueue(plan(*cells(100))), batches)) == 1


def test_nothing_is_taken_from_a_stopped_or_empty_queue():
    queue = UnitQueue(plan(*cells(4)))
    queue.stopped = True
    assert taken(queue, knowing("cell", 0.1)) == []
    last = UnitQueue(plan(*cells(1)))
    assert taken(last, Batches()) == ["cell-000"]
    last.end(ok(unit("cell-000")))
    assert taken(last, Batches()) == []


def test_a_batch_holds_units_that_ask_for_the_same():
    both = [unit(f"cell-{n:03}", model=("one", "other")[n % 2]) for n in range(40)]
    queue = UnitQueue(plan(*both), shape_of=lambda one: one.trials[0].model)
    batches = Batches()
    for model in ("one", "other"):
        batches.note(unit("cell-x", model=model), Outcome("cell-x", "cell", "ok", seconds=0.01))
    kinds = []
    while keys := taken(queue, batches):
        kinds.append({int(key[-3:]) % 2 for key in keys})
    assert all(len(kind) == 1 for kind in kinds)
    assert len(kinds) < 40
