"""The searcher inside a real Ray Tune, with units that only sleep, fail or die."""

import os
import signal
import threading
import time
from collections import Counter

import pytest
from ray import cloudpickle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError

from raybench.errors import UserError
from raybench.execution.causes import MAX_ATTEMPTS
from raybench.execution.driver import Run, drive
from raybench.execution.tune import executor
from raybench.execution.worker import Assignment
from raybench.storage.local import LocalStorage
from raybench.sweep.resources import Resources

from . import fake_worker
from .fakes import plan, trial, two_bases
from .test_driver import Notes

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(120)]
cloudpickle.register_pickle_by_value(fake_worker)


@pytest.fixture
def run(tmp_path):
    storage = LocalStorage(tmp_path)
    return Run(storage, Assignment(storage.url), Notes())


def drive_fakes(run, whole):
    """Drive `whole`; a unit counts as done once it has ended well."""

    def missing():
        done = {key for key, outcome in run.outcomes.items() if outcome.status == "ok"}
        return plan(*(u for u in whole.units if u.key not in done))

    drive(run, missing, executor(Resources(cpus=1), None, fake_worker.FakeTrial))


def moments(run, key):
    """(start, end) of a unit, as its worker wrote them."""
    start = float(run.storage.read(f"starts/{key}/0").split()[0])
    return start, float(run.storage.read(f"ends/{key}"))


def acting(**params):
    """A trial whose units do as `params` say."""
    one = trial()
    return one.model_copy(update={"importance": one.importance.model_copy(update={"params": params})})


def with_trial(whole, end, one):
    """`whole` where the units whose key ends with `end` act as `one`."""
    from dataclasses import replace

    return plan(*(replace(u, trials=(one,)) if u.key.endswith(end) else u for u in whole.units))


def test_a_cell_starts_while_an_unrelated_base_trains_and_few_processes_serve_all(run):
    whole = with_trial(two_bases(cells=10), "base-b", acting(seconds=60, until="ends/cell-a-0"))
    drive_fakes(run, whole)
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    assert len(run.outcomes) == len(whole.units)
    start_b, end_b = moments(run, "base-b")
    cell = moments(run, "cell-a-0")
    assert start_b < cell[0] < cell[1] < end_b
    pids = {run.storage.read(key).split()[1] for key in run.storage.list("starts")}
    assert len(pids) <= 4, "actors are reused"


def test_a_unit_whose_worker_is_killed_is_started_again(run):
    drive_fakes(run, with_trial(two_bases(cells=1), "base-a", acting(kill=1)))
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    assert len(run.storage.list("starts/base-a")) == 2
    assert any("starting it again" in text for text in run.watcher.said)


def test_short_units_keep_both_processes_busy(run):
    """Batches of short units: without them the first process did all, as Tune stopped the second while it started.

    A start of half a minute (a slow machine) still leaves the second its quarter; once it has come, units are shorter.
    """
    whole = two_bases(cells=150)
    for key in [unit.key for unit in whole.units if unit.kind == "cell"]:
        whole = with_trial(whole, key, acting(seconds=0.2, together=0.04, kind="cell"))
    drive_fakes(run, whole)
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    pids = Counter(run.storage.read(key).split()[1] for key in run.storage.list("starts"))
    assert pids.total() == len(whole.units)
    assert len(pids) >= 2
    assert sorted(pids.values())[-2] >= len(whole.units) / 4


def test_a_kill_within_a_batch_costs_only_its_own_unit(run):
    whole = two_bases(cells=20)
    for key in [unit.key for unit in whole.units if unit.kind == "cell"]:
        whole = with_trial(whole, key, acting(seconds=0.05, kind="cell", kill=1 if key == "cell-b-10" else 0))
    drive_fakes(run, whole)
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    starts = {unit.key: run.storage.list(f"starts/{unit.key}/") for unit in whole.units}
    assert [key for key, names in starts.items() if len(names) != 1] == ["cell-b-10"]


@pytest.mark.slow
def test_a_unit_that_always_kills_its_worker_ends_in_failure(run):
    drive_fakes(run, with_trial(two_bases(cells=1), "cell-b-0", acting(kill=99, kind="cell")))
    statuses = {key: outcome.status for key, outcome in run.outcomes.items()}
    assert statuses.pop("cell-b-0") == "failed"
    assert set(statuses.values()) == {"ok"}
    assert len(run.storage.list("starts/cell-b-0")) == MAX_ATTEMPTS
    assert run.outcomes["cell-b-0"].error_type == "WorkerDied"


def test_an_out_of_memory_abort_of_tune_is_survived_by_planning_again(run, monkeypatch):
    """Ray's memory monitor kills a worker with an error that Tune takes for its own end."""
    original, aborts = RayActorManager._actor_task_failed, []

    def memory_monitor(self, tracked_actor_task, exception):
        if not aborts:
            aborts.append(exception)
            exception = OutOfMemoryError("the node ran out of memory")
        original(self, tracked_actor_task, exception)

    monkeypatch.setattr(RayActorManager, "_actor_task_failed", memory_monitor)
    drive_fakes(run, with_trial(two_bases(cells=2), "base-a", acting(kill=1)))
    assert aborts
    assert any("Ray Tune crashed" in text for text in run.watcher.said)
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    assert len(run.outcomes) == 8


def test_a_worker_with_too_much_memory_is_replaced_and_its_outcome_counts(run):
    drive_fakes(run, with_trial(two_bases(cells=2), "base-a", acting(leak=True)))
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    assert len(run.storage.list("starts/base-a")) == 1
    assert any("replacing a worker: 2048 MiB" in text for text in run.watcher.said)


def interrupt_once_there(storage, key, sent):
    while not storage.has(key):
        time.sleep(0.05)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_lets_the_workers_go_and_leaves_the_rest(run):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    how = run.storage, "starts/base-a/0", (sent := [])
    threading.Thread(target=interrupt_once_there, args=how, daemon=True).start()
    drive_fakes(run, with_trial(two_bases(), "base-a", acting(seconds=100)))
    assert time.monotonic() - sent[0] < 32
    assert run.interrupted
    assert run.storage.list("stops") == []
    assert "base-a" not in run.outcomes
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_more_than_any_node_has_is_refused_at_once():
    with pytest.raises(UserError, match=r"found 1 CPU, 1 GPU a cell; expected what a node has: \d+ CPU"):
        executor(Resources(cpus=1, gpus=1), None)


def test_a_worker_that_ray_asks_to_end_interrupts_its_unit(run):
    """SIGTERM in the middle of a unit: Ray's handler raises SystemExit, which is no plug-in's sys.exit()."""
    whole = with_trial(two_bases(cells=1), "base-a", acting(terminate=1))
    drive_fakes(run, whole)
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    assert len(run.storage.list("starts/base-a")) == 2
