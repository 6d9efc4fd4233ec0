"""Faults while cells run in this process: a storage that is away, a full disk, a stage that hangs, NaN, odd clocks."""

import errno
import json
import os
import signal
import subprocess
import threading
import time

import pytest

import raybench
from raybench.errors import UserError
from raybench.pipeline import unit as unit_module
from raybench.progress.journal import read_journal
from raybench.storage import patient
from raybench.storage.heartbeat import Heartbeat
from raybench.storage.leases import Fenced, Lease, LeaseLost, is_alive, stamp
from raybench.storage.local import LocalStorage
from tests import forked
from tests.unit.test_standstill import PLUGIN

STAGE = "{{epochs: {epochs}, warmup_epochs: 0, lr: {lr}, weight_decay: {decay}, batch_size: 256}}"


def write_sweep(folder, methods="[random, magnitude-l1]", epochs=1, lr=0.1, decay=0, resources="{cpus: 1}"):
    """A sweep of one cell for each method; its fine-tuning has these `epochs`, `lr` and `decay`."""
    one = STAGE.format(epochs=1, lr=0.1, decay=0)
    tune = STAGE.format(epochs=epochs, lr=lr, decay=decay)
    (folder / "r.yaml").write_text(f"base: {one}\nsparsify: {one}\nfinetune: {tune}\n")
    (folder / "s.yaml").write_text(
        f"name: s\ndatasets: digits\nmodels: test-convnet\nspeedups: 2\nrecipe: r.yaml\nmethods: {methods}\n"
        f"resources: {resources}\n"
    )
    return folder / "s.yaml"


def run_local(file, storage, plugins=()):
    return raybench.run_sweep(file, storage, local=True, plugins=plugins)


def each_ran_once(storage):
    """Every unit ended well once: nothing is lost, and nothing was done twice."""
    ended = [entry["key"] for entry in read_journal(LocalStorage(storage)) if entry["status"] == "ok"]
    assert len(ended) == len(set(ended))
    return len(ended)


@pytest.fixture
def impatient(monkeypatch):
    """Waits of a tenth of a second."""
    monkeypatch.setattr(patient, "FIRST_S", 0.1)
    monkeypatch.setattr(patient, "LONGEST_S", 0.1)
    monkeypatch.setattr(patient, "NOTICE_S", 0.3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_storage_that_refuses_writes_for_a_while_is_waited_for(tmp_path, monkeypatch, impatient, number):
    scratch, away = LocalStorage._scratch, []

    def refusing(self):
        if threading.current_thread() is threading.main_thread():
            rows = (tmp_path / "out/journal").is_dir() and len(os.listdir(tmp_path / "out/journal")) >= 4
            away.append(time.monotonic()) if rows else None
            if away and time.monotonic() < away[0] + 0.5:  # from when the first cell begins
                raise OSError(number, os.strerror(number))
        return scratch(self)

    monkeypatch.setattr(LocalStorage, "_scratch", refusing)
    with pytest.warns(UserWarning, match="waiting for the storage .*, at most 5 min: .*" + os.strerror(number)):
        end = run_local(write_sweep(tmp_path), tmp_path / "out")
    assert list(end.statuses.values()) == ["ok", "ok"]
    assert each_ran_once(tmp_path / "out") == 1 + 2 + 2


def test_a_storage_that_stays_away_ends_in_its_own_error(tmp_path, monkeypatch, impatient):
    monkeypatch.setattr(patient, "PATIENCE_S", 0.3)
    calls = []

    def broken(key):
        calls.append(key)
        raise OSError(errno.EIO, "broken")

    inner = LocalStorage(tmp_path)
    monkeypatch.setattr(inner, "read", broken)
    storage = patient.Patient(inner, calls.append)
    with pytest.raises(OSError, match="broken"):
        storage.read("a")
    tries = len(calls)
    with pytest.raises(OSError, match="broken"):
        storage.read("b")
    assert (tries > 3, len(calls)) == (True, tries + 1), "patience isn't spent twice"
    inner.read = LocalStorage(tmp_path).read
    assert storage.read("a") is None
    storage.create("a", b"1")
    assert storage.read("a") == b"1"


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, None])
def test_errors_that_may_pass(tmp_path, monkeypatch, impatient, number):
    inner = LocalStorage(tmp_path)
    failures = [OSError(number, "away") if number else OSError("the bucket can't be reached")] * 2

    def failing(key, data, *, durable=True):
        if failures:
            raise failures.pop()
        return LocalStorage.create(inner, key, data, durable=durable)

    monkeypatch.setattr(inner, "create", failing)
    assert patient.Patient(inner).create("a", b"1")
    assert inner.read("a") == b"1"


def test_a_sweep_that_is_complete_needs_no_storage_that_can_be_written(tmp_path, monkeypatch):
    file, tried = write_sweep(tmp_path, "[random, bn-scale]"), []
    file.write_text(file.read_text().replace("models: test-convnet", "models: [test-convnet, test-vit]"))
    statuses = run_local(file, tmp_path / "out").statuses
    assert sorted(statuses.values()) == ["ok", "ok", "ok", "skipped"]

    def refuse(self):
        tried.append(self.root)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(LocalStorage, "_scratch", refuse)
    end = run_local(file, tmp_path / "out")
    assert (end.statuses, end.planned, tried) == (statuses, 0, [])


def test_the_last_word_of_a_run_is_not_waited_for(tmp_path, monkeypatch, impatient):
    """The storage becomes read-only when the last cell is there: nothing is missing."""
    storage = patient.Patient(LocalStorage(tmp_path), lambda text: None)
    monkeypatch.setattr(patient, "PATIENCE_S", 30.0)
    beat = Heartbeat(storage, "runs/x.json", {"status": "running"})
    beat.start()

    def refuse(*given, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(storage.inner, "replace", refuse)
    began = time.monotonic()
    beat.stop(status="ended")
    assert time.monotonic() - began < 5
    assert json.loads(storage.read("runs/x.json"))["status"] == "running"


def test_what_will_not_pass_is_not_waited_for(tmp_path):
    storage = patient.Patient(LocalStorage(tmp_path))
    began = time.monotonic()
    with pytest.raises(OSError, match="name too long"):
        storage.create("x" * 300, b"")
    with pytest.raises(ValueError, match="storage key"):
        storage.read("../x")
    found = []
    thread = threading.Thread(target=lambda: found.append(_error_of(storage)))
    (tmp_path / "file").write_text("")
    thread.start()
    thread.join()
    assert time.monotonic() - began < 1, "a thread that renews a lease tries again by itself"
    assert found


def _error_of(storage):
    try:
        storage.inner.root = storage.inner.root / "file"
        storage.create("a", b"")
    except (OSError, UserError) as error:
        return error
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_waited_for(tmp_path, monkeypatch, impatient):
    """A disk that fills while cells are published, until somebody removes a file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine forbids mounts")
    ballast, stop, refused, may_pass = disk / "ballast", threading.Event(), threading.Event(), patient._may_pass
    monkeypatch.setattr(patient, "_may_pass", lambda error: refused.set() or may_pass(error))

    def fill():  # full from when the first stage is there until half a second after a write failed
        while not list(disk.glob("out/stages/*/result.json")) and not stop.wait(0.005):
            pass
        try:
            with ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError:
            pass
        refused.wait(60)
        stop.wait(0.5)
        ballast.unlink()

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        with pytest.warns(UserWarning, match="waiting for the storage .*No space left on device"):
            end = run_local(write_sweep(tmp_path), disk / "out")
        assert list(end.statuses.values()) == ["ok", "ok"]
        assert each_ran_once(disk / "out") == 1 + 2 + 2
        assert not (disk / "out/.tmp").is_dir() or not os.listdir(disk / "out/.tmp"), "nothing half-written is left"
    finally:
        stop.set()
        thread.join()
        subprocess.run(["umount", "-l", disk], check=False)


def hanging(folder, how):
    """A plug-in criterion that runs `how`, and its name in a sweep."""
    plugin = folder / "hanging.py"
    name = f"hanging-{abs(hash(str(folder))) % 10**8}"
    plugin.write_text(PLUGIN.format(name=name, at_import="").replace("class Ending", "class Hanging"))
    return plugin, json.dumps([{"name": name, "params": {"how": how}}, "random"])


def test_a_stage_that_hangs_is_a_failed_cell_that_names_it(tmp_path):
    plugin, methods = hanging(tmp_path, "import time; time.sleep(100)")
    file = write_sweep(tmp_path, methods, resources="{cpus: 1, timeout: {select: 1s, base: 1h}}")
    before = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    end = run_local(file, tmp_path / "out", [plugin])
    assert time.monotonic() - began < 60
    assert signal.getsignal(signal.SIGALRM) is before
    rows = raybench.load_results(end.storage).sort_values("status")
    assert list(rows["status"]) == ["failed", "ok"]
    failed = rows.iloc[0]
    assert (failed["stage"], failed["error_type"]) == ("select", "StageTimeout")
    assert failed["error_message"] == "select took longer than resources.timeout allows: 1 s"


SUPERVISED = """
from raybench.execution import limits
limits.GRACE_S = 1.0
"""


def test_a_stage_that_hangs_outside_of_python_ends_its_process_and_the_others_run(tmp_path):
    """`sleep` of the C library with Python's lock held: no thread of the process can run."""
    plugin, methods = hanging(tmp_path, "import ctypes; ctypes.PyDLL(None).sleep(300)")
    file = write_sweep(tmp_path, methods, resources="{cpus: 1, timeout: {select: 1}}")
    words = ["run", file, "--storage", tmp_path / "out", "--local", "--plugin", plugin]
    done = forked.run(SUPERVISED + forked.COMMAND, *words, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1, done.stderr
    rows = raybench.load_results(str(tmp_path / "out")).sort_values("status")
    assert list(rows["status"]) == ["failed", "ok"]
    assert (rows.iloc[0]["stage"], rows.iloc[0]["error_type"]) == ("select", "StageTimeout")
    assert rows.iloc[0]["error_message"].endswith("and its process didn't react")
    assert "Traceback" not in done.stdout + done.stderr


def test_a_training_that_diverges_names_the_stage_and_the_epoch(tmp_path):
    end = run_local(write_sweep(tmp_path, epochs=2, lr=1000, decay=100), tmp_path / "out")
    rows = raybench.load_results(end.storage)
    assert set(rows["status"]) == {"failed"}
    assert set(rows["stage"]) == {"finetune"}
    assert set(rows["error_type"]) == {"StageError"}
    assert all("in epoch 1 of 2" in text or "in epoch 2 of 2" in text for text in rows["error_message"])


@pytest.mark.parametrize("jump", [7200.0, -7200.0])
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch, jump):
    wall, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: wall() + offset[0])
    train = unit_module.RUN["base"]
    monkeypatch.setitem(unit_module.RUN, "base", lambda *words: (train(*words), offset.append(offset.pop() + jump))[0])
    end = run_local(write_sweep(tmp_path), tmp_path / "out")
    assert list(end.statuses.values()) == ["ok", "ok"]
    each_ran_once(tmp_path / "out")
    assert all(0 <= entry["seconds"] < 100 for entry in read_journal(LocalStorage(tmp_path / "out")))
    holder = stamp(60)
    offset[0] += jump
    assert is_alive(holder), "a rival on this machine doesn't take over a living process's work"


def test_only_the_holder_of_a_lease_writes(tmp_path):
    storage = LocalStorage(tmp_path)
    lease = Lease(storage, "unit", ttl=0.2, heartbeat=100)
    assert lease.acquire()
    fenced = Fenced(storage, lease)
    time.sleep(0.3)
    fenced.replace("state", b"1")  # it wasn't renewed, but nobody took over
    rival = Lease(storage, "unit", ttl=60)
    assert rival.acquire()
    for write in (
        lambda: fenced.replace("state", b"2"), lambda: fenced.create("row", b""), lambda: fenced.delete("state"),
        lambda: fenced.publish("stage", tmp_path / "folder"), lambda: fenced.rename("state", "other"),
    ):  # fmt: skip
        with pytest.raises(LeaseLost, match="another one has taken over"):
            write()
    assert fenced.read("state") == b"1"
    lease.release()
    assert rival.still_held()
    rival.release()


FROZEN = """
import functools, sys
from raybench.pipeline import unit
unit.Lease = functools.partial(unit.Lease, ttl=2.0)
from raybench.cli.main import main
sys.exit(main())
"""


def test_a_process_that_comes_back_after_its_work_was_taken_over_leaves_it_alone(tmp_path):
    """Frozen in fine-tuning, as a laptop or a virtual machine is; a second one ends the sweep meanwhile."""
    file, out = write_sweep(tmp_path, "random", epochs=25), tmp_path / "out"
    words = ["run", file, "--storage", out, "--local"]
    own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}  # a lock for timings of its own
    with (tmp_path / "output.txt").open("w") as output:
        frozen = forked.start(FROZEN, *words, output=output, env=os.environ | own)
    storage = LocalStorage(out)
    deadline = time.monotonic() + 100
    while not [key for key in storage.list("checkpoints") if "cell" in _kinds(storage, key)]:
        assert time.monotonic() < deadline
        assert frozen.poll() is None, (tmp_path / "output.txt").read_text()
        time.sleep(0.005)
    os.killpg(frozen.pid, signal.SIGSTOP)
    time.sleep(2.5)
    end = run_local(file, out)
    os.killpg(frozen.pid, signal.SIGCONT)
    assert frozen.wait(timeout=100) == 0, (tmp_path / "output.txt").read_text()
    assert list(end.statuses.values()) == ["ok"]
    assert each_ran_once(out) == 3
    last = [entry for entry in read_journal(storage) if entry["kind"] == "cell" and entry["status"] != "ok"]
    assert [entry["status"] for entry in last] == ["interrupted"]
    assert "another one has taken over" in last[0]["error"]
    assert storage.list("checkpoints") == storage.list("leases") == []


def _kinds(storage, checkpoint):
    return {entry["kind"] for entry in read_journal(storage, checkpoint.split("/")[1])}
