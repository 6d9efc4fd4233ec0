"""Ctrl-C ends a command in time, whatever its parts do."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from raybench.cli import main as cli
from raybench.errors import RaybenchError
from raybench.execution import interrupt
from raybench.execution.cluster import _uninterrupted
from raybench.execution.interrupt import Interrupts, asked_to_end, interrupts


def test_a_storage_that_does_not_answer_does_not_keep_a_command_from_ending(monkeypatch):
    """What the first Ctrl-C calls writes to the storage."""
    monkeypatch.setattr(interrupt, "AGAIN_S", 0.01)
    monkeypatch.setattr(interrupt, "LIMIT_S", 0.1)
    found, answered, ended = Interrupts(lambda: None), threading.Event(), []
    monkeypatch.setattr(found, "_end", lambda last_words: ended.append(time.monotonic()) or found.close())
    found._heard = True  # no signals to the process of the tests
    began = time.monotonic()
    with found.stopping(lambda: answered.wait(30)):
        insisting = threading.Thread(target=found._insist)
        insisting.start()
        insisting.join(20)
    answered.set()
    assert ended, "it waited for the storage"
    assert ended[0] - began < 10


def test_an_interrupted_command_ends_without_the_end_of_python(monkeypatch, capsys):
    """Seen once: it crashed after its sentence, with exit code -11, where threads of libraries may still run."""
    seen = []
    monkeypatch.setattr(cli, "_guarded", lambda verb, arguments: interrupt.INTERRUPTED)
    monkeypatch.setattr(cli.sys, "argv", ["raybench", "plan", "quickstart"])
    monkeypatch.setattr(cli.signal, "signal", lambda *given: None)
    monkeypatch.setattr(cli.atexit, "_run_exitfuncs", lambda: seen.append("cleaned up"))
    monkeypatch.setattr(cli.os, "_exit", seen.append)
    cli.main()
    assert seen == ["cleaned up", 130]
    assert cli.main(["plan", "quickstart"]) == 130, "who calls it from Python goes on"
    assert len(seen) == 2


@pytest.fixture
def handled(monkeypatch):
    """The requests of a command, whose signals are repeated soon."""
    monkeypatch.setattr(interrupt, "AGAIN_S", 0.1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with interrupts() as requests:
        yield requests
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_ray_ends_is_raised_after_it(handled):
    """Half a shutdown, and another one at the end of the process, may be where it once crashed."""
    ended = []

    def end_of_ray():
        with _uninterrupted():
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.3)  # the signal is repeated meanwhile
            ended.append("Ray")
        time.sleep(10)

    assert not asked_to_end()
    with pytest.raises(KeyboardInterrupt):
        end_of_ray()
    assert ended == ["Ray"]
    assert asked_to_end()


def test_an_error_of_a_lost_cluster_does_not_come_while_ray_ends(handled):
    ended = []
    handled._error = RaybenchError("the cluster was lost")
    with _uninterrupted():
        signal.raise_signal(signal.SIGINT)
        ended.append("Ray")
    assert ended == ["Ray"]


def test_a_second_hangup_is_no_second_ctrl_c(handled):
    with pytest.raises(KeyboardInterrupt):
        handled.handle(signal.SIGHUP, None)
    handled.heard()
    handled.handle(signal.SIGHUP, None)
    assert handled.requested


def test_ctrl_c_while_the_first_modules_are_imported(tmp_path):
    """Seen once in 25: a traceback and the exit code of a signal."""
    code = """
import os, signal, sys
import raybench.__main__ as entry

class Interrupting:
    def find_spec(self, name, *given):
        if name == "raybench.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv, sys.meta_path = ["raybench", "run"], [Interrupting(), *sys.meta_path]
sys.exit(entry.main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "raybench run: interrupted\n")
