"""What a run notes of itself: another process goes on with the same counts after the one that ran it has died."""

import io
from collections import Counter

import pytest

from raybench.execution.causes import MEMORY, NODE
from raybench.execution.driver import Run
from raybench.execution.notes import Noted, note_changes, recall
from raybench.execution.tally import Tally
from raybench.execution.worker import Assignment
from raybench.progress.outcome import Outcome
from raybench.storage.local import LocalStorage
from tests.cluster.fakes import ok, plan, two_bases, unit


@pytest.fixture
def runs(tmp_path):
    """The run of a process, what it notes, and the run of its parent, which knows the first plan."""
    storage, notes = LocalStorage(tmp_path), io.BytesIO()
    child, parent = (Run(storage, Assignment(storage.url)) for _ in range(2))
    note_changes(child, notes)
    parent.tally.begin({one.key: one for one in two_bases().units}, {})
    yield child, notes, parent
    child.leave()
    parent.leave()


def test_outcomes_and_attempts_outlive_the_process(runs):
    child, notes, parent = runs
    child.load(two_bases())
    child.over(ok(child.take()))
    again, moved = child.take(), child.take()
    child.queue.again(again.key, MEMORY)
    child.queue.again(moved.key, NODE)
    child.queue.give_back(child.take().key)
    assert recall(parent, notes.getvalue()) == Noted(began=True, ended=1, unit="")
    assert parent.outcomes == child.outcomes
    assert len(parent.outcomes) == 1
    assert +parent.attempts == +child.attempts
    assert parent.attempts[again.key] == 1
    assert parent.moves == Counter({moved.key: 1})


def test_the_unit_that_ran_is_the_one_that_was_neither_ended_nor_given_back(runs):
    child, notes, parent = runs
    assert recall(parent, notes.getvalue()) == Noted(began=False, ended=0, unit="")
    child.load(plan(unit("base-a"), unit("base-b")))
    held = child.take()
    child.over(Outcome(held.key, held.kind, "busy"))
    assert recall(parent, notes.getvalue()) == Noted(began=True, ended=0, unit=""), "another run has it"
    runs_now = child.take()
    half_a_line = b'["attempts", "base-x'
    assert recall(parent, notes.getvalue() + half_a_line).unit == runs_now.key


def test_the_counts_go_on_in_the_next_process(runs, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("raybench.execution.tally.time.monotonic", lambda: now[0])
    child, notes, parent = runs
    for one in (child, parent):
        one.tally._start = now[0]
    child.load(two_bases())
    for _ in range(5):
        child.over(ok(child.take()))
    now[0] = 110.0
    assert recall(parent, notes.getvalue()).ended == 5
    before = (dict(child.tally.counts), child.tally.total, child.tally.headline(1))
    parent.load(plan(*(one for one in two_bases().units if one.key not in parent.outcomes)))
    assert (dict(parent.tally.counts), parent.tally.total, parent.tally.headline(1)) == before
    assert parent.tally.total == 4
    assert "about " in before[2]
    while not parent.finished:
        parent.over(ok(parent.take()))
    assert (parent.tally.over, parent.tally.eta()) == (4, "")


def test_a_cell_whose_result_was_lost_is_counted_once():
    tally, cells = Tally(), {one.key: one for one in (unit("cell-a-0"), unit("cell-a-1"))}
    tally.begin(cells, {})
    for one in cells.values():
        tally.ended(one, ok(one))
    outcomes = {"cell-a-0": ok(cells["cell-a-0"]), "cell-a-1": Outcome("cell-a-1", "cell", "again")}
    tally.begin({"cell-a-1": cells["cell-a-1"]}, outcomes)
    assert (tally.over, tally.total) == (1, 2)
