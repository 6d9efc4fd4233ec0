"""A time limit for each stage of a unit: a stage that hangs becomes a failed row that names it.

At the limit StageTimeout is raised in the main thread. Where that isn't heard within GRACE_S, since a library hangs
outside of Python, the process ends, if it runs nothing but units; the driver finds the limit in the journal.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Any

from raybench.errors import StageError
from raybench.progress.journal import present_stage

GRACE_S = 20.0
OVER = signal.SIGALRM if hasattr(signal, "SIGALRM") else None  # raises StageTimeout, also out of a system call


class StageTimeout(StageError):
    """A stage took longer than the sweep's `resources` allow."""


_owned = threading.Event()


def own_this_process() -> None:
    """Say that this process runs nothing but units, so that it may be ended when one hangs."""
    _owned.set()


@contextmanager
def limited(timeouts: Mapping[str, float]) -> Iterator[Callable[[str], None]]:
    """Context of one unit. Yields what is called with the name of each stage when it starts.

    Args:
        timeouts: seconds of a stage, by its name; others are not limited. Without any nothing is done. Outside of the
            main thread, where Ray Train runs units, nothing is raised: a process that runs only units ends.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not timeouts or OVER is None or not (in_main or _owned.is_set()):
        yield lambda stage: None
        return
    with open(os.devnull, "w") as traces:
        limit = _Limit(timeouts, traces, threading.main_thread().ident if in_main else None)
        if not in_main:
            try:
                yield limit.begin
            finally:
                limit.end()
            return
        before, blocked = signal.signal(OVER, limit.over), signal.pthread_sigmask(signal.SIG_UNBLOCK, {OVER})
        limit.otherwise = before if callable(before) else None
        try:
            yield limit.begin
        finally:
            limit.end()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.signal(OVER, before)


class _Limit:
    """The clock of the stage that runs."""

    def __init__(self, timeouts: Mapping[str, float], traces: IO[str], main: int | None) -> None:
        self._timeouts, self._traces = timeouts, traces
        self._stage, self._timer = "", threading.Timer(0, lambda: None)
        self._deadline = float("inf")
        self._main = main  # the thread to interrupt; None: none
        self.otherwise: Callable[[int, FrameType | None], Any] | None = None

    def begin(self, stage: str) -> None:
        """Start the clock of `stage`."""
        self.end()
        if (seconds := self._timeouts.get(stage)) is None:
            return
        self._stage, self._deadline = stage, time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()
        if _owned.is_set():  # in a thread of C, which needs no lock of Python
            faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=self._traces)

    def end(self) -> None:
        """Stop the clock."""
        self._timer.cancel()
        self._deadline = float("inf")
        if _owned.is_set():
            faulthandler.cancel_dump_traceback_later()

    def over(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal: raise StageTimeout, or do what the handler before did if it isn't ours."""
        if time.monotonic() >= self._deadline:
            self._deadline = float("inf")  # not again while the stage ends
            raise StageTimeout(self._stage, took_too_long(self._stage, self._timeouts[self._stage]))
        if self.otherwise is not None:
            self.otherwise(number, frame)

    def _ring(self) -> None:
        with suppress(ProcessLookupError):
            if OVER is not None and self._main is not None:
                signal.pthread_kill(self._main, OVER)


def took_too_long(stage: str, seconds: float) -> str:
    """The message of a stage that reached its limit."""
    return f"{stage} took longer than resources.timeout allows: {seconds:g} s"


def overdue(execution: Mapping[str, Any], timeouts: Mapping[str, float]) -> str:
    """The message of the stage at which `execution`, of which no more is heard, reached its limit; empty if none."""
    last = present_stage(execution)
    seconds = timeouts.get(last["stage"], float("inf"))
    late = execution["status"] == "running" and time.time() - last["started"] >= seconds
    return f"{took_too_long(last['stage'], seconds)}, and its process didn't react" if late else ""
