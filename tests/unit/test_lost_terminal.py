"""A terminal that is closed, or standard streams that can't be written: a run ends in order, or goes on."""

import contextlib
import os
import pty
import signal
import sys
import time

import pytest

from raybench.cli import main as cli
from raybench.cli.printable_output import LossyStream
from raybench.progress.journal import read_journal
from raybench.results.store import Store
from raybench.storage.open import open_storage

STAGE = "{epochs: %d, lr: 0.01}"
SWEEP = "{name: s, datasets: digits, models: test-convnet, methods: random, speedups: 2, recipe: r.yaml}"


def on_a_terminal(folder, epochs, hangup=signal.SIG_DFL):
    """(pid, the other end of its terminal) of a run there, once its base is in training."""
    (folder / "s.yaml").write_text(SWEEP)
    stages = [f"{name}: {STAGE % count}" for name, count in (("base", epochs), ("sparsify", 0), ("finetune", 0))]
    (folder / "r.yaml").write_text("\n".join(stages))
    pid, terminal = pty.fork()
    if not pid:
        signal.signal(signal.SIGHUP, hangup)
        os.chdir(folder)
        words = ["-m", "raybench", "run", "s.yaml", "--local", "--storage", "out"]
        os.execve(sys.executable, [sys.executable, *words], os.environ | {"OMP_NUM_THREADS": "1"})
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not in_training(folder):
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 1 << 16)
        time.sleep(0.05)
    return pid, terminal


def in_training(folder):
    return (folder / "out").exists() and any(one["stages"] for one in read_journal(open_storage(str(folder / "out"))))


def end_of(pid, limit_s):
    """Whether the process ended within `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@pytest.mark.timeout(200)
def test_a_closed_terminal_ends_a_run_in_order(tmp_path):
    pid, terminal = on_a_terminal(tmp_path, epochs=5000)
    os.close(terminal)
    assert end_of(pid, 14), "it had to be killed"
    storage = open_storage(str(tmp_path / "out"))
    assert storage.list("leases") == []
    assert [one["status"] for one in read_journal(storage)] == ["interrupted"]


@pytest.mark.timeout(200)
def test_with_nohup_a_run_goes_on_without_its_terminal(tmp_path):
    """The signal reaches it although it is ignored, where it is blocked; and no line can be written any more."""
    pid, terminal = on_a_terminal(tmp_path, epochs=60, hangup=signal.SIG_IGN)
    os.close(terminal)
    assert end_of(pid, 120)
    assert list(Store(open_storage(str(tmp_path / "out"))).statuses().values()) == ["ok"]


def test_text_for_a_stream_that_is_gone_is_dropped(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    stream = LossyStream(os.fdopen(writer, "w"))
    print("nobody reads it", file=stream, flush=True)
    print("nor this", file=stream, flush=True)
    assert os.path.samefile(f"/proc/self/fd/{stream.fileno()}", os.devnull)
    stream.close()
    print("closed", file=stream, flush=True)


def test_streams_that_are_closed_from_the_start_are_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["methods"]) == 0
    assert cli.main(["validate", "gone.yaml"]) == 2
