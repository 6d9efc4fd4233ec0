"""`raybench watch`: what a store says of its sweep, alive, abandoned and complete, on a disk and on S3."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

from raybench.cli.main import main
from raybench.execution.driver import Run, drive
from raybench.execution.worker import Assignment
from raybench.plan.records import Plan
from raybench.progress.journal import Execution
from raybench.progress.outcome import settle
from raybench.progress.snapshot import StoreReader
from raybench.progress.view import panel
from raybench.progress.words import duration, rate
from raybench.results.store import Store
from raybench.storage.gc import find_garbage
from raybench.storage.leases import Lease
from raybench.storage.local import LocalStorage
from raybench.storage.open import open_storage
from tests.cluster.fakes import failed, ok, trial, unit
from tests.s3 import served_bucket
from tests.unit.result_rows import row


def whole(cells=3) -> Plan:
    """A base and cells of one sweep, under the ids that the store wants."""
    trials = tuple(trial(seed=seed) for seed in range(cells))
    units = [replace(unit("cell-x"), key=one.trial_id, trials=(one,)) for one in trials]
    return Plan(tuple(units), (), (), trials)


class Watched:
    """A driver that has begun `whole()` on a storage, and what its workers would do."""

    def __init__(self, storage):
        self.storage, self.run = storage, Run(storage, Assignment(storage.url), sweep="mine")
        self.run.load(whole())

    def work(self, end=None):
        """Take a unit as a worker does; `end` is what the outcome is made by, None leaves it running."""
        one = self.run.take()
        lease = Lease(self.storage, one.key)
        assert lease.acquire()
        execution = Execution(self.storage, one.key, one.kind, f"net seed {one.trials[0].seed}")
        execution.stage("finetune")
        if end is None:
            return lease
        if end is ok:
            values = row(one.trials[0], metric_final=91.5)
            Store(self.storage).publish(values)
            execution.end("ok", summary={"metric_final": 91.5})
        else:
            execution.end("failed", error="boom", traceback="")
            settle(end(one), one.trials[0], Store(self.storage))
        lease.release()
        self.run.over(end(one))
        return None


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "store")


def shown(storage, capsys, *options, code=0):
    assert main(["watch", storage.url, *options]) == code
    return capsys.readouterr().out


def test_a_sweep_that_runs(storage, capsys):
    watched = Watched(storage)
    watched.work(ok)
    watched.work(failed)
    lease = watched.work()
    text = shown(storage, capsys, "--once", code=1)
    assert "mine: 2/3 cells (1 ok, 1 failed, 0 skipped), 0/" in text
    assert f"process {os.getpid()}, started " in text
    assert "1 unit running" in text
    assert "about" in text
    assert f"running net seed 2: finetune for 0s on {os.uname().nodename}:{os.getpid()}, heartbeat 0s ago" in text
    assert "ok cell net seed 0: final 91.5" in text
    assert "failed cell net seed 1 in finetune: boom" in text
    assert "failed: 1 cell in cell: ValueError: boom" in text
    assert "raybench show" in text
    lease.release()
    watched.run.leave()


@pytest.mark.parametrize("content", [b"", b'{"a', b"[]", b"null", b'{"worker": 5}'])
def test_a_lease_that_can_not_be_read_is_called_so(storage, capsys, content):
    watched = Watched(storage)
    watched.work()
    for key in storage.list("leases"):
        storage.replace(key, content)
    assert "heartbeat can't be read" in shown(storage, capsys, "--once", code=3)
    garbage = [one.reason for one in find_garbage(storage, finished=[]) if one.kind == "lease"]
    assert garbage == ["it can't be read, so nobody holds it"]
    watched.run.leave()


def test_a_driver_that_has_gone_is_told_with_its_last_word(storage, capsys):
    watched = Watched(storage)
    watched.work(ok)
    lease = watched.work()
    for folder in ("runs", "leases"):  # as a killed machine leaves them
        for key in storage.list(folder):
            heartbeat = json.loads(storage.read(key))
            storage.replace(
                key, json.dumps({**heartbeat, "time": heartbeat["time"] - 500, "machine": "another"}).encode()
            )
    text = shown(storage, capsys, "--once", code=3)
    assert "no heartbeat since 20" in text
    assert "(8m 2" in text
    assert "no driver runs the missing cells" in text
    assert "no units running" in text
    assert "heartbeat none for 8m 2" in text
    assert "left" not in text, "nothing goes on: no estimate"
    lease.release()
    watched.run.leave()


def test_an_interrupted_driver_says_so(storage, capsys):
    watched = Watched(storage)
    watched.run.interrupted = True
    watched.run.leave()
    assert ": interrupted at 20" in shown(storage, capsys, "--once", code=3)


def test_it_ends_with_the_sweep_and_tells_by_its_code_of_failures(storage, capsys):
    watched = Watched(storage)
    watched.work(ok)
    watched.work(ok)
    watched.work(failed)
    assert not StoreReader(storage).read().complete, "its driver may try the failed one again"
    watched.run.leave()
    assert main(["watch", storage.url, "--interval", "0.1"]) == 1
    assert "mine: 3/3 cells (2 ok, 1 failed, 0 skipped)" in capsys.readouterr().out


def test_a_pipe_gets_a_line_for_what_ends(storage):
    watched = Watched(storage)
    code = "import sys; from raybench.cli.main import main; code = main(sys.argv[1:]); print(*sorted({'torch', 'ray'} & set(sys.modules))); sys.exit(code)"  # noqa: E501
    command = [sys.executable, "-c", code, "watch", storage.url, "--interval", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert "mine: 0/3 cells" in watching.stdout.readline()
        watched.work(ok)
        message = ""
        while "mine: 1/3 cells" not in message:  # while the driver is there: no word of an end
            message += watching.stdout.readline()
        for _ in range(2):
            watched.work(ok)
        watched.run.leave()
        message += watching.communicate(timeout=30)[0]
    assert watching.returncode == 0
    for seed in range(3):
        assert message.count(f"ok cell net seed {seed}: final 91.5") == 1
    assert message.count("mine: 3/3 cells (3 ok, 0 failed, 0 skipped)") == 1
    assert message.count(": ended at 20") == 1
    assert message.splitlines()[-1] == "", "neither torch nor ray was imported"


def test_a_pipe_is_told_that_the_driver_has_gone_and_it_ends(storage, capsys, monkeypatch):
    watched = Watched(storage)
    watched.work(ok)

    def go(seconds):
        assert seconds == 0.1
        watched.run.interrupted = True
        watched.run.leave()

    monkeypatch.setattr("raybench.cli.watch.time.sleep", go)
    text = shown(storage, capsys, "--interval", "0.1", code=1)
    assert text.count(": interrupted at 20") == 1
    assert text.count("no driver runs the missing cells") == 1
    assert text.rstrip().splitlines()[-1].startswith("mine: 1/3 cells")


def test_with_wait_it_stays_for_another_driver(storage, capsys, monkeypatch):
    Watched(storage).run.leave()
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            again = Watched(storage)
            for _ in range(3):
                again.work(ok)
            again.run.leave()

    monkeypatch.setattr("raybench.cli.watch.time.sleep", sleep)
    assert "mine: 3/3 cells" in shown(storage, capsys, "--wait")
    assert len(looks) == 2


def test_a_look_that_fails_is_not_the_end(storage, capsys, monkeypatch):
    watched, looks = Watched(storage), []
    read = StoreReader.read

    def sometimes(reader):
        looks.append(reader)
        if len(looks) in (2, 3):
            raise OSError("the network is away")
        return read(reader)

    def sleep(seconds):
        if len(looks) == 3:
            for _ in range(3):
                watched.work(ok)
            watched.run.leave()

    monkeypatch.setattr(StoreReader, "read", sometimes)
    monkeypatch.setattr("raybench.cli.watch.time.sleep", sleep)
    text = shown(storage, capsys)
    assert text.count("the network is away: trying again") == 1
    assert "mine: 3/3 cells" in text


def test_a_half_written_word_of_a_driver_is_no_traceback(storage, capsys):
    watched, reader = Watched(storage), StoreReader(storage)
    known = reader.read().sweeps
    (key,) = storage.list("runs")
    storage.replace("runs/other.json", b"")
    assert "mine: 0/3 cells" in shown(storage, capsys, "--once", code=3)
    storage.replace(key, storage.read(key)[:20])
    assert reader.read().sweeps == known
    watched.run.leave()


def test_help_tells_the_codes(capsys):
    with pytest.raises(SystemExit):
        main(["watch", "--help"])
    assert "130 when interrupted" in " ".join(capsys.readouterr().out.split())


def test_the_panel_fits_a_terminal_of_100_columns(storage):
    watched = Watched(storage)
    watched.work(ok)
    watched.work(failed)
    lease = watched.work()
    console = Console(width=100, record=True, force_terminal=True, file=io.StringIO())
    console.print(panel(StoreReader(storage).read()))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.split() == ["running", "stage", "since", "on", "heartbeat"] for line in lines)
    lease.release()
    watched.run.leave()


def test_two_sweeps_at_once_are_both_shown(storage, capsys):
    first, second = Watched(storage), Run(storage, Assignment(storage.url), sweep="other")
    second.load(whole(5))
    text = shown(storage, capsys, "--once", code=3)
    assert "mine: 0/3 cells" in text
    assert "other: 0/5 cells" in text
    first.run.leave()
    second.leave()


def test_compacted_rows_and_stores_without_a_plan_count(storage, capsys):
    from raybench.results.compaction import compact

    for seed in range(2):
        Store(storage).publish(row(trial(seed=seed)))
    compact(Store(storage))
    assert "2 cells (2 ok, 0 failed, 0 skipped); their total is unknown" in shown(storage, capsys)


def test_an_empty_folder_is_no_storage_of_a_run(storage, capsys):
    assert main(["watch", storage.url, "--once"]) == 2
    assert "expected the --storage of a run" in capsys.readouterr().err


def test_a_run_that_has_nothing_to_do_leaves_no_sign(storage):
    run = Run(storage, Assignment(storage.url))
    drive(run, lambda: Plan((), (), (), ()), lambda run: None)
    assert storage.list("") == []


def test_words():
    assert [duration(s) for s in (5, 200, 7500, -1)] == ["5s", "3m 20s", "2h 05m", "0s"]
    assert rate(0.5) == "30 cells a minute"
    assert rate(1 / 1800) == "2 cells an hour"


def test_it_reads_s3(monkeypatch, tmp_path, capsys):
    with served_bucket(monkeypatch, "watched") as url:
        storage = open_storage(url)
        watched = Watched(storage)
        watched.work(ok)
        started = time.monotonic()
        assert "mine: 1/3 cells (1 ok" in shown(storage, capsys, "--once", code=3)
        assert time.monotonic() - started < 10
        watched.run.leave()
