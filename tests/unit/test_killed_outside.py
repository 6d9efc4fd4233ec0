"""`run --local` whose process is killed while it runs no unit: it waits for another run, checks, has just ended one."""

import contextlib
import json
import os
import re
import signal
import time

import pytest

import raybench
from raybench.storage.leases import Lease
from raybench.storage.local import LocalStorage
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from tests import forked
from tests.unit.test_faults import each_ran_once, write_sweep

SOON = """
from raybench.execution import waits
waits.NOTICE_S = 0.1
"""


@contextlib.contextmanager
def waiting_run(folder):
    """(process, its output, the storage, the lease) of a run whose second cell this process holds."""
    file, storage = write_sweep(folder), LocalStorage(folder / "out")
    held = Lease(storage, resolve(load_sweep(file))[1].trial_id)
    assert held.acquire()
    words = ["run", file, "--storage", folder / "out", "--local"]
    own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    with (folder / "output.txt").open("w") as output:
        process = forked.start(SOON + forked.COMMAND, *words, output=output, env=os.environ | own)
    try:
        yield process, folder / "output.txt", storage, held
    finally:
        held.release()
        process.send_signal(signal.SIGKILL)


def until(found, process, output):
    """What `found` returns once it is true, while the run goes on."""
    deadline = time.monotonic() + 60
    while not (value := found()):
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.01)
    return value


def kill_the_waiting(process, output, storage, killed):
    """Kill the process that runs the units, once it says that it waits."""
    until(lambda: output.read_text().count("waiting for 1 unit of another run") > 2 * len(killed), process, output)
    (pid,) = {json.loads(storage.read(key))["pid"] for key in storage.list("runs")}
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


def test_another_process_goes_on_with_the_same_counts(tmp_path):
    with waiting_run(tmp_path) as (process, output, storage, held):
        kill_the_waiting(process, output, storage, [])
        until(lambda: "starting another one" in output.read_text(), process, output)
        held.release()
        assert process.wait(60) == 0, output.read_text()
    said = output.read_text()
    assert re.findall(r"\[(\S+)\] ok cell", said) == ["1/2", "2/2"]
    assert "2 cells to run, 3 shared stages" in said
    assert "1 cell to run, 0 shared stages" in said
    assert each_ran_once(tmp_path / "out") == 1 + 2 + 2
    assert set(raybench.load_results(str(tmp_path / "out"))["status"]) == {"ok"}


def test_after_three_in_a_row_the_run_ends_in_a_sentence_that_names_the_holder(tmp_path):
    with waiting_run(tmp_path) as (process, output, storage, _held):
        killed = []
        for _ in range(3):
            kill_the_waiting(process, output, storage, killed)
        assert process.wait(60) == 1, output.read_text()
    said = output.read_text()
    last = said.splitlines()[-1]
    holder = f"process {os.getpid()} on {os.uname().nodename}"
    assert last.startswith("raybench run: the process died of SIGKILL (Killed; Linux sends it when memory runs out) ")
    assert f"while waiting for 1 unit of another run ({holder}): cell test-convnet " in last
    assert last.endswith(
        ". 3 processes in a row have died outside of a unit; the same command goes on with what is missing"
    )
    assert said.count("starting another one") == 2
    assert "Traceback" not in said
    assert each_ran_once(tmp_path / "out") == 1 + 2 + 1
    assert storage.list("results/attempts") == []


CHECKED = """
import os, signal
from pathlib import Path
from raybench.execution import run
check = run.check
def deadly(*given):
    if {count} > len(list(Path().glob("died-*"))):
        Path(f"died-{{os.getpid()}}").touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return check(*given)
run.check = deadly
"""


@pytest.mark.parametrize("count", [2, 9])
def test_a_process_that_dies_in_the_check(tmp_path, count):
    words = ["run", write_sweep(tmp_path, "random"), "--storage", tmp_path / "out", "--local"]
    own = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = forked.run(CHECKED.format(count=count) + forked.COMMAND, *words, env=own, cwd=tmp_path, timeout=60)
    assert done.returncode == int(count > 2), done.stderr
    assert "died of SIGSEGV (Segmentation fault) before its first unit, in its checks or imports" in done.stderr
    assert ("3 processes in a row" in done.stderr) == (count > 2)


PUBLISHED = """
import os, signal
from raybench.storage.local import LocalStorage
move = LocalStorage._move
def deadly(self, target, *given):
    first = move(self, target, *given)
    if target.name in {names}:
        os.kill(os.getpid(), signal.SIGKILL)
    return first
LocalStorage._move = deadly
"""


def test_a_row_that_was_published_last_counts_though_its_process_could_not_say_so(tmp_path):
    file = write_sweep(tmp_path)
    first = resolve(load_sweep(file))[0]
    code = PUBLISHED.format(names=[f"{first.trial_id}.parquet", first.base_key])
    own = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = forked.run(code + forked.COMMAND, "run", file, "--storage", tmp_path / "out", "--local", env=own, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("between units; starting another one") == 2
    assert re.findall(r"\[(\S+)\] ok cell", done.stderr) == ["2/2"]
    assert set(raybench.load_results(str(tmp_path / "out"))["status"]) == {"ok"}
    assert each_ran_once(tmp_path / "out") == 2 + 1
