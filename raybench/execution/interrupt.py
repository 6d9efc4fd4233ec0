"""Ctrl-C: one handler for a whole command. It sets a flag, stops the run in order, and repeats what a library swallows.

SIGTERM, as job managers send it, counts too, and so does SIGHUP of a terminal that is closed. A second Ctrl-C ends at
once.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from raybench.errors import RaybenchError, printable

INTERRUPTED = 130  # exit code after Ctrl-C, as shells use it
AGAIN_S = 2.0  # until KeyboardInterrupt is raised once more: an import or a callback of a library may swallow it
GRACE_S = 10.0  # for workers to let go of their units
LIMIT_S = 15.0  # a command's process ends then, whatever it does
HANGUP = getattr(signal, "SIGHUP", None)


def end_process(code: int) -> NoReturn:
    """End this process without Python's own end, which waits for threads; what was printed is written first."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # AttributeError: closed when the process began
            stream.flush()
    os._exit(code)


class Interrupts:
    """The requests to end this process: whether there was one, and what happens then.

    Args:
        last_words: called before the process ends because nothing else ended it in LIMIT_S; None: it is never ended,
            as it isn't ours.
    """

    def __init__(self, last_words: Callable[[], None] | None = None) -> None:
        self.requested = False
        self._last_words = last_words
        self._since = 0.0
        self._own = False  # the next signal is a repeat
        self._heard = False
        self._action: Callable[[], None] | None = None
        self._notes: list[Callable[[], None]] = []
        self._error: RaybenchError | None = None
        self._over = threading.Event()
        self._main = threading.main_thread().ident
        self._pid = os.getpid()

    @property
    def ending(self) -> bool:
        """Whether the command ends: it was asked to, or `fail` was called."""
        return self.requested or self._error is not None

    def heard(self) -> None:
        """The run has stopped because of it: raise no more KeyboardInterrupts."""
        self._heard = True

    def close(self) -> None:
        """The command has ended: do nothing more."""
        self._heard = True
        self._over.set()

    def fail(self, error: RaybenchError) -> None:
        """Raise `error` in the main thread. Called in another one, when the main thread may wait for ever."""
        self._error, self._heard = error, False
        self._insist()

    @contextmanager
    def noted(self, note: Callable[[], None]) -> Iterator[None]:
        """Context in which `note`, which only sets flags, is called at the first signal, before KeyboardInterrupt."""
        self._notes.append(note)
        try:
            yield
        finally:
            self._notes.remove(note)

    @contextmanager
    def stopping(self, action: Callable[[], None]) -> Iterator[None]:
        """Context in which the first signal calls `action`, in another thread, instead of a KeyboardInterrupt here.

        That follows after GRACE_S, or at the second signal. Raises KeyboardInterrupt if there was a signal before.
        """
        if self.requested:
            raise KeyboardInterrupt
        self._action = action
        try:
            yield
        finally:
            self._action = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        own, self._own = self._own, False
        if self._error is not None:
            if not self._heard:
                raise self._error
            return
        first, self.requested = not self.requested, True
        if number == HANGUP and not first:  # the kernel and the shell both send it: nobody is impatient
            return
        if first:
            self._since = time.monotonic()
            for note in self._notes:
                note()
            _thread.start_new_thread(self._insist, ())  # not threading.Thread, whose locks this thread may hold
            if self._action is not None:
                return
        elif own and (self._heard or self._waits):
            return
        raise KeyboardInterrupt

    @property
    def _waits(self) -> bool:
        """Whether workers still have time to let go."""
        return self._action is not None and time.monotonic() - self._since < GRACE_S

    def _insist(self) -> None:
        """Call the action, then repeat the signal until it is heard, and end the process at LIMIT_S."""
        began = time.monotonic()
        if self._action is not None and self._error is None:
            _thread.start_new_thread(self._act, (self._action,))  # it writes to the storage, which may not answer
        while not self._over.wait(AGAIN_S):
            limit = LIMIT_S if self._error is None else LIMIT_S / 3  # libraries already wait in vain for a while
            if time.monotonic() - began > limit and self._last_words and self._pid == os.getpid():
                self._end(self._last_words)
            if not self._heard and self._main is not None:
                self._own = True
                signal.pthread_kill(self._main, signal.SIGINT)

    def _act(self, action: Callable[[], None]) -> None:
        with suppress(Exception):
            action()

    def _end(self, last_words: Callable[[], None]) -> NoReturn:
        if self._error is None:
            last_words()
        else:
            print(printable(f"raybench: {self._error}"), file=sys.stderr)
        end_process(INTERRUPTED if self._error is None else self._error.exit_code)


_current: list[Interrupts] = []  # the innermost last; empty where nobody handles signals


def asked_to_end() -> bool:
    """Whether somebody asked this process to end; also where the handler of SIGINT isn't ours, so that it can't say."""
    return not _current or _current[-1].requested or signal.getsignal(signal.SIGINT) != _current[-1].handle


@contextmanager
def interrupts(last_words: Callable[[], None] | None = None) -> Iterator[Interrupts]:
    """Context with this process's `Interrupts`: those of the command that is running, or else new ones.

    New ones handle SIGINT where Python's own handler would, and with `last_words` SIGTERM and SIGHUP where the default
    would (`nohup` ignores SIGHUP); in other threads, where Python receives no signals, they handle none.
    """
    if _current:
        yield _current[-1]
        return
    found = Interrupts(last_words)
    defaults: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
    if last_words is not None:
        defaults[signal.SIGTERM] = signal.SIG_DFL
        if HANGUP is not None:
            defaults[HANGUP] = signal.SIG_DFL
    before = {}
    if threading.current_thread() is threading.main_thread():
        mine = [number for number, default in defaults.items() if signal.getsignal(number) is default]
        before = {number: signal.signal(number, found.handle) for number in mine}
    hook, sys.unraisablehook = sys.unraisablehook, _quiet(sys.unraisablehook, found)
    _current.append(found)
    try:
        yield found
    finally:
        found.close()
        _current.remove(found)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _quiet(hook: Callable[[Any], object], found: Interrupts) -> Callable[[Any], object]:
    """`hook` without the tracebacks of a KeyboardInterrupt that Python had to ignore: it is raised again."""

    def show(unraisable: Any) -> None:
        if not (found.requested and unraisable.exc_type is KeyboardInterrupt):
            hook(unraisable)

    return show
