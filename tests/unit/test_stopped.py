"""`run --local` while one of its two processes is stopped: Ctrl-Z of one, a debugger, a machine that sleeps."""

import contextlib
import os
import signal
import time
from pathlib import Path

import raybench
from raybench.progress.journal import read_journal
from raybench.storage.local import LocalStorage
from tests import forked
from tests.unit.test_faults import each_ran_once, write_sweep

SOON = """
from raybench.execution import waits
waits.NOTICE_S = 0.2
"""


@contextlib.contextmanager
def run_of_two_cells(folder, earlier=()):
    """(the run, its output, what runs the units) once its first cell, after those `earlier`, is being trained."""
    methods = f"[{'lamp, ' if earlier else ''}random, magnitude-l1]"
    words = ["run", write_sweep(folder, methods, epochs=20), "--storage", folder / "out", "--local"]
    own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    with (folder / "output.txt").open("w") as output:
        run = forked.start(SOON + forked.COMMAND, *words, output=output, env=os.environ | own)
    try:
        deadline = time.monotonic() + 60
        while not (found := [one for one in cells(folder / "out") if one["key"] not in earlier]):
            assert run.poll() is None, (folder / "output.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield run, folder / "output.txt", found[0]["pid"]
    finally:
        run.send_signal(signal.SIGKILL)


def cells(storage):
    return [one for one in read_journal(LocalStorage(storage)) if one["kind"] == "cell" and one["stages"]]


def test_a_stop_is_no_request_to_end(tmp_path):
    """Python's sigtimedwait returned a signal that never came, after a stop that was longer than its timeout."""
    with run_of_two_cells(tmp_path) as (run, output, worker):
        os.kill(run.pid, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        time.sleep(0.7)
        os.kill(run.pid, signal.SIGCONT)
        assert run.wait(60) == 1, output.read_text()
    rows = raybench.load_results(str(tmp_path / "out")).sort_values("status")
    assert list(rows["status"]) == ["failed", "ok"], output.read_text()
    assert "the process died of SIGKILL" in rows.iloc[0]["error_message"]
    assert "[2/2] ok cell" in output.read_text()
    assert each_ran_once(tmp_path / "out") == 1 + 2 + 1


def test_a_stopped_process_is_named_with_what_lets_it_go_on(tmp_path):
    with run_of_two_cells(tmp_path) as (run, output, worker):
        os.kill(worker, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while "is stopped" not in output.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(worker, signal.SIGCONT)
        assert run.wait(60) == 0, output.read_text()
    said = output.read_text()
    expected = f"waiting for process {worker}, which runs the units and is stopped; kill -CONT {worker}"
    assert said.splitlines().count(expected) == 1
    assert each_ran_once(tmp_path / "out") == 1 + 2 + 2


def test_the_process_that_runs_the_units_dies_with_the_command(tmp_path):
    with run_of_two_cells(tmp_path) as (run, _output, worker):
        os.kill(run.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{worker}/stat").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    end = raybench.run_sweep(tmp_path / "s.yaml", tmp_path / "out", local=True)
    assert list(end.statuses.values()) == ["ok", "ok"]
    assert each_ran_once(tmp_path / "out") == 1 + 2 + 2
    assert LocalStorage(tmp_path / "out").list("leases") == []


def test_asked_to_end_while_its_parent_has_threads_it_ends_in_order(tmp_path):
    """Arrow starts some in the parent where rows are there already: one took the signal, and the parent ended first."""
    raybench.run_sweep(write_sweep(tmp_path, "[lamp]", epochs=20), tmp_path / "out", local=True)
    with run_of_two_cells(tmp_path, [one["key"] for one in cells(tmp_path / "out")]) as (run, output, worker):
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130, output.read_text()
    storage = LocalStorage(tmp_path / "out")
    assert [one["status"] for one in cells(tmp_path / "out") if one["pid"] == worker] == ["interrupted"]
    assert storage.list("leases") == []
