"""No standstill without a word: stopped processes, leases of wrong clocks, and plug-ins that end their process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import raybench
from raybench.pipeline import exclusive
from raybench.pipeline.exclusive import Machine
from raybench.storage.leases import Lease, stamp
from raybench.storage.local import LocalStorage

TIME = """
import sys, pathlib
from raybench.pipeline.exclusive import Machine
with Machine(pathlib.Path(sys.argv[1])).computing() as node, node.exclusive() as alone:
    print("alone", flush=True)
    sys.stdin.readline()
    print(bool(alone), flush=True)
"""


@pytest.fixture
def timing(tmp_path):
    """A process that takes a timing until it reads a line."""
    words = [sys.executable, "-c", TIME, str(tmp_path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "alone\n"
    yield process
    process.kill()
    process.wait()


def test_a_process_stopped_in_a_timing_holds_nobody_up_for_ever(tmp_path, timing, monkeypatch):
    monkeypatch.setattr(exclusive, "NOTICE_S", 0.2)
    monkeypatch.setattr(exclusive, "STOPPED_S", 0.5)
    os.kill(timing.pid, signal.SIGSTOP)
    said = []
    with Machine(tmp_path).computing(said.append):
        assert said[0] == f"process {timing.pid} takes a timing and is stopped"
        assert said[-1].endswith("going on without it")
    os.kill(timing.pid, signal.SIGCONT)
    out, _ = timing.communicate("\n", timeout=20)
    assert out == "False\n", "its timing doesn't count: another process has computed meanwhile"


def test_a_process_that_takes_a_long_timing_is_waited_for_and_named(tmp_path, timing, monkeypatch):
    monkeypatch.setattr(exclusive, "NOTICE_S", 0.2)
    monkeypatch.setattr(exclusive, "STOPPED_S", 0.3)
    said = []

    def notice(text):
        said.append(text)
        timing.stdin.write("\n")
        timing.stdin.flush()

    with Machine(tmp_path).computing(notice):
        assert said == [f"process {timing.pid} takes a timing"]
    assert timing.stdout.readline() == "True\n"


def test_the_folder_of_the_locks_is_the_users_own(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    Machine(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(exclusive.UserError, match="another user"):
        Machine(link)


def lease_of(storage, **facts):
    storage.create("leases/abc/1", json.dumps({**stamp(60), "machine": "another", **facts}).encode())
    return Lease(storage, "abc")


FAR = 4e9  # a date in 2096; a constant, so that every process of the tests gives the cases the same names


@pytest.mark.parametrize("facts", [
    {"time": FAR}, {"time": FAR, "ttl": 1e10}, {"time": 1e300}, {"time": "soon"},
    {"ttl": float("inf")}, {"time": float("nan")}, {"pid": None, "time": 0}, {"time": None}, {"machine": 3},
], ids=str)  # fmt: skip
def test_a_lease_with_an_impossible_date_is_taken_over(tmp_path, facts):
    lease = lease_of(LocalStorage(tmp_path), **facts)
    assert not lease.taken
    assert lease.acquire()
    lease.release()


def test_a_living_holder_keeps_its_lease_when_this_machines_clock_is_set_back(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.create("leases/abc/1", json.dumps({**stamp(60), "time": time.time() + 7200}).encode())
    assert Lease(storage, "abc").taken
    assert lease_of(LocalStorage(tmp_path / "other"), time=time.time() + 30).taken, "clocks may differ a little"


@pytest.mark.parametrize("name", ["x", "-1", "1.5", "¹", "9" * 30], ids=ascii)
def test_files_of_other_names_among_the_leases(tmp_path, name):
    storage = LocalStorage(tmp_path)
    storage.create(f"leases/abc/{name}", b"")
    lease = Lease(storage, "abc")
    assert lease.acquire()
    lease.release()


PLUGIN = """
from dataclasses import dataclass
from raybench.methods.protocols import ElementwiseImportance
from raybench.registry import importance

{at_import}

@importance("{name}")
@dataclass(frozen=True)
class Ending(ElementwiseImportance):
    how: str = ""

    needs = "weights"

    def saliency(self, layer):
        exec(self.how)
        return layer.weight.abs()
"""
NONE = "{epochs: 0, lr: 0.1}"


def run_local(folder, name, methods, at_import=""):
    """The end of a run in this process, with a criterion from a plug-in file."""
    plugin = folder / f"{name.replace('-', '_')}.py"
    plugin.write_text(PLUGIN.format(name=name, at_import=at_import))
    (folder / "r.yaml").write_text(f"base: {NONE}\nsparsify: {NONE}\nfinetune: {NONE}\n")
    axes = "name: s, datasets: digits, models: test-convnet, speedups: 2, recipe: r.yaml"
    (folder / "s.yaml").write_text(f"{{{axes}, methods: {json.dumps(methods)}}}")
    return raybench.run_sweep(folder / "s.yaml", folder / "out", local=True, plugins=[plugin])


def test_a_plug_in_that_ends_its_process_is_a_failed_cell(tmp_path):
    endings = {
        "import sys; sys.exit(0)": "SystemExit", "raise SystemExit": "SystemExit",
        "raise BaseException": "BaseException", "raise KeyboardInterrupt": "KeyboardInterrupt",
        "raise GeneratorExit": "GeneratorExit", "import asyncio; raise asyncio.CancelledError": "CancelledError",
    }  # fmt: skip
    methods = [{"name": "ending", "params": {"how": how}} for how in endings]
    end = run_local(tmp_path, "ending", [*methods, "random"])
    rows = raybench.load_results(end.storage)
    assert sorted(end.statuses.values()) == ["failed"] * len(endings) + ["ok"]
    assert sorted(rows["error_type"].dropna()) == sorted(endings.values())


@pytest.mark.parametrize("how", ["import sys; sys.exit(0)", "raise KeyboardInterrupt"])
def test_a_plug_in_that_ends_the_process_at_its_import_is_a_failed_cell(tmp_path, how):
    end = run_local(tmp_path, "ending-early", ["ending-early", "random"], at_import=how)
    assert sorted(end.statuses.values()) == ["failed", "ok"]


def test_quit_in_a_debugger_ends_the_run(tmp_path):
    quits = {"name": "ending-by-hand", "params": {"how": "import bdb; raise bdb.BdbQuit"}}
    end = run_local(tmp_path, "ending-by-hand", [quits])
    assert end.interrupted
    assert list(end.statuses.values()) == ["missing"]
