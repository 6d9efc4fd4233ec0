"""Every wait has a limit, or says after ten seconds what it is for."""

import fcntl
import json
import sys
import types

import pytest
from rich.console import Console

from raybench.execution import mps, waits
from raybench.execution.capacity import awaited
from raybench.execution.driver import Run, Watcher
from raybench.execution.jobs import Job, Jobs
from raybench.execution.progress import Panel, Silent
from raybench.execution.waits import Wait
from raybench.execution.worker import Assignment
from raybench.storage import bucket
from raybench.storage.heartbeat import Heartbeat
from raybench.storage.leases import Lease
from raybench.storage.local import LocalStorage
from tests.cluster.fakes import plan, unit

FULL = "waiting for 1 GPU for each of 2 processes; free in the cluster: 3 CPU"
TO_START = "waiting for 2 processes to start and to import what units need"


class Told(Watcher):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def clock(monkeypatch):
    """The time that waits see; a test sets `clock.now`."""
    time = types.SimpleNamespace(now=0.0)
    time.monotonic = lambda: time.now
    monkeypatch.setattr(waits, "time", time)
    return time


def test_a_wait_is_said_once_when_it_lasts_and_again_when_it_is_for_something_else(clock):
    said = []
    wait = Wait(said.append)
    for clock.now, words in [(0, "a"), (5, "a"), (11, "a"), (22, "a"), (33, "b"), (44, ""), (55, "b")]:
        wait.lasts(lambda words=words: words)
    assert said == ["a", "b", "b"]
    wait.over()
    for clock.now in (60, 69):
        wait.lasts(lambda: "c")
    assert said == ["a", "b", "b"], "a short wait is no news"


def test_a_run_says_which_other_run_has_its_last_units(tmp_path, clock):
    storage, heard = LocalStorage(tmp_path), Told()
    run = Run(storage, Assignment(storage.url), heard)
    run.load(plan(unit("cell-a-0"), unit("cell-a-1")))
    with Lease(storage, "cell-a-0") as lease:
        assert lease.holder().startswith("process ")
        assert lease.holder().split(" on ")[1]
        for key in (run.take().key, run.take().key):
            run.queue.postpone(key, 0.0)
        for clock.now in (0, 5, 11):
            run._note_wait()
        (line,) = heard.lines
        assert line.startswith("waiting for 2 units of another run (process ")
        assert line.endswith("): cell test-convnet random 2x protected-global seed 0 and others")
    assert Lease(storage, "cell-a-0").holder() == ""
    run.leave()


def test_a_process_that_stands_still_is_named_once(tmp_path):
    """SIGSTOP, a paused machine, a lost network: Ray says nothing, and its lease runs out."""
    storage, heard = LocalStorage(tmp_path), Told()
    run = Run(storage, Assignment(storage.url), heard)
    run.load(plan(unit("cell-a-0")))
    run.take()
    entry = {"key": "cell-a-0", "kind": "cell", "label": "net 2x", "host": "h", "pid": 7, "started": 1.0,
             "status": "running", "stages": []}  # fmt: skip
    storage.create("journal/cell-a-0/1-h-7.json", json.dumps(entry).encode())
    silent = Silent(run)
    with Lease(storage, "cell-a-0"):
        silent.look()
        assert heard.lines == []
    silent.look()
    silent.look()
    assert heard.lines == [
        "net 2x: waiting for process 7 on h, silent for 60 s (stopped? cut off?); kill it to start the unit again"
    ]
    run.leave()


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([("PENDING", [{"GPU": 1.0}, {"GPU": 1.0}])], FULL),
        ([("CREATED", [{"GPU": 1.0}, {"GPU": 1.0}])], TO_START),
        ([("PENDING", [{"GPU": 1.0}])], TO_START),
        ([("PENDING", [{"CPU": 1.0}, {"GPU": 1.0}])], TO_START),
        ([], TO_START),
    ],
)  # fmt: skip
def test_units_without_a_process_wait_for_resources_or_for_its_start(monkeypatch, groups, expected):
    table = {str(n): {"state": state, "bundles": dict(enumerate(b))} for n, (state, b) in enumerate(groups)}
    monkeypatch.setitem(
        sys.modules, "ray", types.SimpleNamespace(available_resources=lambda: {"CPU": 3.0, "node:x": 1})
    )
    monkeypatch.setitem(sys.modules, "ray.util", types.SimpleNamespace(placement_group_table=lambda: table))
    assert awaited("cell x", {"GPU": 1.0}, 2) == f"cell x: {expected}"


class Away(LocalStorage):
    """A folder that can't be used while `away` is set."""

    away = False

    def replace(self, *given, **options):
        if self.away:
            raise OSError(28, "No space left on device")
        super().replace(*given, **options)

    def list(self, *given):
        if self.away:
            raise OSError(116, "Stale file handle")
        return super().list(*given)


def test_a_driver_says_that_its_workers_wait_for_the_storage(tmp_path):
    storage, said = Away(tmp_path), []
    beat = Heartbeat(storage, "runs/x", {})
    beat.say = said.append
    for storage.away in (False, True, True, True, False, True, False):
        beat._try()
    url = storage.url
    assert said == [
        f"the storage {url} can't be written, so workers wait for it: [Errno 28] No space left on device",
        f"the storage {url} works again",
    ]


def test_the_panel_goes_on_while_the_storage_is_away(tmp_path):
    storage, looks = Away(tmp_path), []
    panel = Panel(Console(file=open("/dev/null", "w")))  # noqa: SIM115  # as long as the panel
    run = Run(storage, Assignment(storage.url))
    run.load(plan(unit("cell-a-0")))
    run.take()
    storage.away, panel._run = True, run
    panel._closed = types.SimpleNamespace(wait=lambda seconds: looks.append(seconds) or len(looks) > 2)
    panel._watch()
    assert len(looks) == 3
    storage.away = False
    run.leave()


def test_the_door_of_a_daemon_has_a_limit(tmp_path):
    with (tmp_path / mps.DOOR).open("a") as lock:  # of a process that is stopped
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"another process holds .* for over 0.1 s"), mps.door(tmp_path, 0.1):
            pass
    with mps.door(tmp_path, 0.1):
        pass


def test_following_a_job_that_does_not_start_says_so_once(monkeypatch):
    said, states = [], ["PENDING", "PENDING", "RUNNING", "SUCCEEDED"]
    jobs = object.__new__(Jobs)
    jobs._say = said.append
    jobs.find = lambda job: Job(job, states.pop(0), None, None, None, None, None)
    jobs.logs = lambda job: "" if states else "done\n"
    monkeypatch.setattr("raybench.execution.jobs.ANSWER_S", 0.0)
    assert list(jobs.follow("raybench-0-1", 0.0)) == ["done\n"]
    assert said == ["job raybench-0-1 is pending: waiting until the cluster starts it, Ctrl-C ends"]


def test_a_store_that_contradicts_itself_is_not_asked_for_ever(monkeypatch):
    exceptions = pytest.importorskip("obstore.exceptions")

    def refuse(*given, **options):
        raise exceptions.AlreadyExistsError("it is there")

    store = types.SimpleNamespace(put=refuse)
    one = bucket.Bucket("s3://b", "b", store)
    monkeypatch.setattr(one, "_writer", lambda name: None)
    monkeypatch.setattr(bucket.time, "sleep", lambda seconds: None)
    with pytest.raises(OSError, match="says that it exists, and that it doesn't"):
        one.create("leases/x/1", b"")
