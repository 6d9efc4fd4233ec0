"""NVIDIA MPS with a stand-in for its control program, as no GPU was at hand: one daemon a device, never left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raybench.errors import UserError
from raybench.execution import mps, worker
from raybench.sweep.mistakes import SpecError
from raybench.sweep.reader import load_sweep

CONTROL = """#!{python}
import os, signal, sys, time
pipe = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
note = os.path.join(pipe, "daemon")
if sys.argv[1:] == ["-f"]:
    if {broken}:
        sys.exit("MPS is not supported on this device")
    if os.path.exists(note):
        os.kill(int(open(note).read()), 0)
        open(os.path.join(pipe, "two"), "w")
    open(note, "w").write(str(os.getpid()))
    open(os.path.join(pipe, "device"), "w").write(os.environ["CUDA_VISIBLE_DEVICES"])
    while not os.path.exists(os.path.join(pipe, "quit")):
        time.sleep(0.02)
    os.remove(os.path.join(pipe, "quit"))
    os.remove(note)
elif sys.stdin.read().strip() == "quit" and not {deaf}:
    open(os.path.join(pipe, "quit"), "w")
"""
USER = """
import sys, time
from raybench.execution import mps
from pathlib import Path
print(mps.join("on", root=Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


def program(folder: Path, broken=False, deaf=False) -> dict[str, str]:
    """The variables of a process that finds the stand-in, on device 3."""
    (folder / "bin").mkdir(exist_ok=True)
    file = folder / "bin" / mps.PROGRAM
    file.write_text(CONTROL.format(python=sys.executable, broken=broken, deaf=deaf))
    file.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", mps.VISIBLE: "3"}


@pytest.fixture
def found(tmp_path, monkeypatch):
    """The stand-in on the path, and the folder of daemons; all that was started is over afterwards."""
    variables = program(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(mps.PIPE, raising=False)
    yield tmp_path
    for note in tmp_path.glob("device-*/users/*"):
        note.unlink()
    for folder in tmp_path.glob("device-*"):
        until(lambda folder=folder: not mps._runs(folder))


def until(true, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def daemon_of(folder: Path) -> int:
    return int((folder / "device-3" / "pipe" / "daemon").read_text())


def alive(pid: int) -> bool:
    return mps.started_at(pid) != mps.GONE


def user_of(folder: Path) -> subprocess.Popen:
    started = subprocess.Popen([sys.executable, "-c", USER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert "active=True" in started.stdout.readline()
    return started


def test_one_daemon_serves_a_device_and_ends_with_its_last_user_however_that_ends(found):
    first, second = user_of(found), user_of(found)
    daemon = daemon_of(found)
    assert (found / "device-3" / "pipe" / "device").read_text() == "3"
    assert not (found / "device-3" / "pipe" / "two").exists()
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(2.5)
    assert alive(daemon)
    second.send_signal(signal.SIGKILL)
    second.wait()
    until(lambda: not alive(daemon))
    third = user_of(found)  # a new one is started for whoever comes later
    assert daemon_of(found) != daemon
    third.kill()
    third.wait()


def test_the_daemon_dies_with_its_keeper(found):
    user = user_of(found)
    daemon = daemon_of(found)
    os.kill(int((found / "device-3" / mps.KEEPER).read_text().split()[0]), signal.SIGKILL)
    until(lambda: not alive(daemon))
    user.kill()
    user.wait()


def test_this_process_is_brought_under_the_daemon(found):
    variables = dict(os.environ)
    assert mps.join("auto", variables, root=found) == mps.Joined(True, "under MPS")
    assert variables[mps.PIPE] == str(found / "device-3" / "pipe")
    assert variables[mps.VISIBLE] == "0"
    other = dict(os.environ) | {mps.VISIBLE: "GPU-1a2b"}
    assert mps.join("on", other, root=found).active
    assert other[mps.VISIBLE] == "GPU-1a2b"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"PATH": "/nowhere"}, "found no nvidia-cuda-mps-control"),
        ({mps.VISIBLE: ""}, "found 0 devices in CUDA_VISIBLE_DEVICES"),
        ({mps.VISIBLE: "0,1"}, "found 2 devices in CUDA_VISIBLE_DEVICES"),
        ({mps.VISIBLE: "MIG-7"}, "MIG devices have no MPS"),
    ],
)
def test_where_it_cannot_be_auto_goes_on_and_on_refuses(changed, why, tmp_path):
    variables = program(tmp_path) | changed
    before = dict(variables)
    joined = mps.join("auto", variables, root=tmp_path, spawn=never)
    assert (joined.active, joined.note.startswith(f"no MPS: {why}")) == (False, True)
    with pytest.raises(UserError, match=f"resources: mps: found on, but {why}"):
        mps.join("on", variables, root=tmp_path, spawn=never)
    assert variables == before


def never(command):
    raise AssertionError("nothing is started")


def test_a_daemon_that_refuses_is_told_in_its_own_words(tmp_path, monkeypatch):
    for name, value in program(tmp_path, broken=True).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(mps.PIPE, raising=False)
    joined = mps.join("auto", dict(os.environ), root=tmp_path)
    assert joined.note == f"no MPS: {mps.PROGRAM} ended (1): MPS is not supported on this device"
    until(lambda: not mps._runs(tmp_path / "device-3"))


def test_off_and_the_daemon_of_somebody_else_start_nothing(tmp_path):
    variables = program(tmp_path)
    assert mps.join("off", variables, root=tmp_path, spawn=never) == mps.Joined(False, "")
    theirs = variables | {mps.PIPE: "/tmp/nvidia-mps"}
    joined = mps.join("on", theirs, root=tmp_path, spawn=never)
    assert (joined.active, theirs[mps.PIPE]) == (True, "/tmp/nvidia-mps")
    assert not list(tmp_path.glob("device-*"))


def test_a_later_process_with_the_same_id_is_not_taken_for_a_user(tmp_path):
    mps.register(tmp_path, os.getpid())
    assert mps.users(tmp_path) == [os.getpid()]
    (tmp_path / mps.USERS / str(os.getpid())).write_text("1")
    (tmp_path / mps.USERS / "999999999").write_text("-")
    assert mps.users(tmp_path) == []
    assert mps.started_at(999999999) == mps.GONE


SWEEP = """
name: tiny
models: test-convnet
datasets: digits
methods: magnitude-l2
speedups: [2]
recipe: quick
resources: {{cpus: 1, gpus: {gpus}, mps: {mps}}}
"""


@pytest.mark.parametrize(("wanted", "gpus"), [("off", 0), ("on", 0.5), ("auto", "auto"), ("'on'", 0.25)])
def test_a_sweep_says_it(wanted, gpus, tmp_path):
    (tmp_path / "s.yaml").write_text(SWEEP.format(mps=wanted, gpus=gpus))
    assert load_sweep(tmp_path / "s.yaml").resources.mps == wanted.strip("'")


@pytest.mark.parametrize(
    ("wanted", "gpus", "message"),
    [
        ("maybe", 0.5, "resources.mps"),
        ("3", 0.5, "resources.mps"),
        ("on", 0, "resources.mps: found on beside gpus: 0, expected a share of a GPU"),
        ("auto", 2, "resources.mps: found auto beside gpus: 2, expected a share of a GPU"),
    ],
)
def test_what_cannot_be_is_refused(wanted, gpus, message, tmp_path):
    (tmp_path / "s.yaml").write_text(SWEEP.format(mps=wanted, gpus=gpus))
    with pytest.raises(SpecError, match=message):
        load_sweep(tmp_path / "s.yaml")


def test_a_worker_comes_under_mps_before_its_unit_and_the_row_says_so(monkeypatch):
    asked = []
    monkeypatch.setattr(worker.mps, "join", lambda wanted: asked.append(wanted) or mps.Joined(True, "under MPS"))
    monkeypatch.setattr(worker, "device_of", lambda assignment, kind: asked.append(kind))
    worker._under_mps.cache_clear()
    notes = []
    monkeypatch.setattr("raybench.pipeline.unit.run_unit", lambda unit, context, *_: notes.append(context.share_note))
    trial = SimpleNamespace(device="cuda", threads=1, importance=SimpleNamespace(name="random", trained=False),
                            regularizer=None, model="test-convnet", dataset="digits")  # fmt: skip
    unit = SimpleNamespace(trials=(trial,), key="k", kind="cell")
    for gpus in (0.5, 1.0):
        worker.execute(unit, worker.Assignment("memory", gpus=gpus, share_note="measured", mps="auto"))
    worker._under_mps.cache_clear()
    unit.kind = "probe"  # of a whole GPU, on which its copies run as the cells will
    worker.execute(unit, worker.Assignment("memory", gpus=1.0, mps="auto"))
    worker._under_mps.cache_clear()
    assert asked == ["auto", "cuda", "cuda", "auto", "cuda"]
    assert notes == ["measured; under MPS", "measured", "under MPS"]
