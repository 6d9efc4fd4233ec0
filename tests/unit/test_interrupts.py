"""Ctrl-C ends a command in time, whatever its parts do."""

import threading
import time

from raybench.cli import main as cli
from raybench.execution import interrupt
from raybench.execution.interrupt import Interrupts


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
