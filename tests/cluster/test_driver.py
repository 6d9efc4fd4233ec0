"""The loop that ends a sweep, with executors that are made up: no Ray, no training."""

import time
from dataclasses import replace

import pytest

from raybench.errors import UserError
from raybench.execution.causes import MAX_ATTEMPTS
from raybench.execution.driver import Aborted, Run, Watcher, drive
from raybench.execution.worker import Assignment
from raybench.plan.only import only_cell
from raybench.plan.records import Skip
from raybench.progress.outcome import Outcome
from raybench.results.store import Store
from raybench.storage.heartbeat import Heartbeat
from raybench.storage.leases import Lease
from raybench.storage.local import LocalStorage

from .fakes import failed, ok, plan, trial, two_bases, unit


class Notes(Watcher):
    """Remembers what it was told."""

    def __init__(self):
        self.said, self.over = [], []

    def ended(self, unit, outcome):
        self.over.append((unit.key, outcome.status))

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def run(tmp_path):
    storage = LocalStorage(tmp_path)
    return Run(storage, Assignment(storage.url), Notes())


def missing(run, whole):
    """`whole` without what ended well in this run: what a plan over the storage would say."""
    done = {key for key, outcome in run.outcomes.items() if outcome.status == "ok"}
    return plan(*(u for u in whole.units if u.key not in done))


def execute_with(outcome_of):
    """A fit that ends every unit as `outcome_of` says."""

    def fit(run):
        while not run.finished:
            run.over(outcome_of(run.take()))

    return fit


def test_everything_ends_and_the_second_plan_is_empty(run):
    drive(run, lambda: missing(run, two_bases()), execute_with(ok))
    assert len(run.outcomes) == 8
    assert not run.interrupted
    assert run.storage.list("stops") == []


def cells_of_real_ids(*fields):
    """A base and cells whose keys are their trial ids, as the store wants them."""
    cells = [replace(unit("cell-x", "base-a", **f), key=trial(**f).trial_id) for f in fields]
    return plan(unit("base-a"), *cells), [cell.key for cell in cells]


def test_a_failed_stage_gives_each_of_its_cells_one_row(run):
    whole, ids = cells_of_real_ids({"seed": 0}, {"seed": 1})
    drive(run, lambda: missing(run, whole), execute_with(failed))
    store = Store(run.storage)
    assert store.statuses() == dict.fromkeys(ids, "failed")
    for trial_id in ids:
        assert len(store.attempts(trial_id)) == 1
        assert store.record(trial_id)["stage"] == "base"
        assert store.record(trial_id)["error_message"] == "boom"


def test_a_skipped_stage_skips_its_cells(run):
    whole, ids = cells_of_real_ids({"seed": 0})
    drive(
        run,
        lambda: missing(run, whole),
        execute_with(lambda u: Outcome(u.key, u.kind, "skipped", "base", "NotSupported", "no norms")),
    )
    assert Store(run.storage).statuses() == {ids[0]: "skipped"}
    assert Store(run.storage).record(ids[0])["reason"] == "no norms"


def test_cells_that_the_plan_skips_are_rows(run):
    impossible = trial(importance="bn-scale")
    drive(run, lambda: replace(plan(), skips=(Skip(impossible, "no BatchNorm"),)), execute_with(ok))
    assert Store(run.storage).record(impossible.trial_id)["reason"] == "no BatchNorm"


def test_an_abort_is_survived_by_planning_again(run):
    aborts = iter([True, False, True])

    def fit(run):
        if next(aborts, False):
            run.take()
            raise Aborted("out of memory")
        execute_with(ok)(run)

    drive(run, lambda: missing(run, two_bases()), fit)
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    assert any("planning again" in text for text in run.watcher.said)


def test_an_abort_that_comes_back_ends_in_a_row_of_the_unit_that_ran(run):
    whole, ids = cells_of_real_ids({"seed": 0}, {"seed": 1})

    def fit(run):
        while not run.finished:
            unit = run.take()
            if unit.key == ids[0]:
                raise Aborted("out of memory")
            run.over(ok(unit))

    drive(run, lambda: missing(run, whole), fit)
    assert [run.outcomes[key].status for key in ids] == ["failed", "ok"]
    record = Store(run.storage).record(ids[0])
    assert record["error_type"] == "WorkerDied"
    assert f"{MAX_ATTEMPTS} attempts" in record["error_message"]


def test_a_stage_whose_result_never_appears_does_not_run_for_ever(run):
    starts = []

    def fit(run):
        while not run.finished:
            unit = run.take()
            starts.append(unit.key)
            run.over(ok(unit))

    drive(run, lambda: plan(unit("base-a")), fit)
    assert starts == ["base-a"] * MAX_ATTEMPTS
    assert run.outcomes["base-a"].status == "failed"


def test_a_worker_that_dies_after_publishing_has_done_its_work(run, tmp_path):
    def fit(run):
        while not run.finished:
            unit = run.take()
            (tmp_path / "result").mkdir()
            run.storage.publish(f"stages/{unit.key}", tmp_path / "result")
            run.lost(unit.key, "killed")

    drive(run, lambda: missing(run, plan(unit("base-a"))), fit)
    assert run.watcher.over == [("base-a", "ok")]


def test_a_unit_that_another_driver_holds_is_waited_for_without_a_process(run, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("raybench.execution.driver.time.monotonic", lambda: clock[0])
    other = Lease(run.storage, "base-a")
    assert other.acquire()
    taken = []

    def fit(run):
        while not run.finished:
            unit = run.take()
            clock[0] += 10.0
            if clock[0] == 100.0:
                other.release()
            if unit is not None:
                taken.append((unit.key, clock[0]))
                run.over(Outcome(unit.key, unit.kind, "busy") if len(taken) == 1 else ok(unit))

    drive(run, lambda: missing(run, plan(unit("base-a"))), fit)
    assert len(taken) == 2
    assert taken[1][1] > 100.0


def test_an_interrupt_ends_the_loop(run):
    def fit(run):
        run.take()
        raise KeyboardInterrupt

    drive(run, lambda: missing(run, two_bases()), fit)
    assert run.interrupted


def test_only_one_cell_and_what_it_needs():
    whole, ids = cells_of_real_ids({"seed": 0}, {"seed": 1})
    assert [u.key for u in only_cell(whole, ids[1]).units] == ["base-a", ids[1]]
    assert [u.key for u in only_cell(whole, ids[1][:10]).units] == ["base-a", ids[1]]
    with pytest.raises(UserError, match="found no cell"):
        only_cell(whole, "ffff")
    with pytest.raises(UserError, match="found 2 cells"):
        only_cell(whole, "")


@pytest.mark.parametrize("error", [OSError("away"), UserError("the store refuses")])
def test_a_storage_that_fails_at_the_last_word_leaves_the_run_finished(run, monkeypatch, error):
    closed = []

    def fail(*args, **how):
        raise error

    def fit(run):
        execute_with(ok)(run)
        monkeypatch.setattr(run.storage, "replace", fail)
        monkeypatch.setattr(run.storage, "delete", fail)

    run.watcher.close = lambda: closed.append(True)
    drive(run, lambda: missing(run, two_bases()), fit)
    assert closed == [True]
    assert len(run.outcomes) == 8


@pytest.mark.parametrize("error", [OSError("away"), UserError("the store refuses")])
def test_a_heart_beats_on_after_the_storage_failed_for_a_moment(tmp_path, monkeypatch, error):
    storage, answers = LocalStorage(tmp_path), []
    replace_it = storage.replace

    def refuse_once(key, data, **how):
        answers.append(key)
        if len(answers) == 2:
            raise error
        replace_it(key, data, **how)

    monkeypatch.setattr(storage, "replace", refuse_once)
    beat = Heartbeat(storage, "runs/a.json", {}, ttl=0.06)
    beat.start()
    deadline = time.monotonic() + 5
    while len(answers) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    beat.stop()
    assert len(answers) >= 4
