"""Runs a function in a forked child process, which reports what it returned, and tells how such a process died."""

from __future__ import annotations

import atexit
import ctypes
import os
import pickle
import signal
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from raybench.error_text import message_of, name_of, traceback_of
from raybench.errors import UserError
from raybench.execution.interrupt import INTERRUPTED, end_process
from raybench.execution.limits import own_this_process

DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Death:
    """How a child process ended without a report."""

    pid: int
    status: int  # as waitpid returns it

    @property
    def signal(self) -> int:
        """The signal that ended it; 0 where none did."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0

    def __str__(self) -> str:
        if not self.signal:
            return f"the process ended with exit code {os.waitstatus_to_exitcode(self.status)}"
        memory = "; Linux sends it when memory runs out" if self.signal == signal.SIGKILL else ""
        return f"the process died of {signal.Signals(self.signal).name} ({signal.strsignal(self.signal)}{memory})"


def can_fork(url: str) -> bool:
    """Whether a child of this process would work: no torch or threads are there already, no object store's connections.

    `url`: of the storage that is open.
    """
    alone = threading.active_count() == 1 and threading.current_thread() is threading.main_thread()
    alone = alone and sys.gettrace() is None  # a debugger stays in its process
    return alone and hasattr(signal, "sigtimedwait") and "torch" not in sys.modules and "://" not in url


def shared_file() -> IO[bytes]:
    """An unbuffered file for what a child tells this process: in memory, so that a full disk can't take the word."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("raybench"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def begin(body: Callable[[], object], report: IO[bytes], mask: set[Any] | None = None) -> int:
    """Start a child process that pickles what `body` returns into `report`; its pid. It dies with this process.

    `mask`: signals that are blocked in it; None: as here.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent, pid = os.getpid(), os.fork()
    if not pid:
        _be_child(body, report, mask, parent)
    return pid


def portable(error: Exception) -> Exception:
    """`error` as another process can raise it; one that is not raised on purpose carries this process's traceback."""
    if isinstance(error, UserError):
        return UserError(str(error))
    error.add_note(traceback_of(error))
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))
        return error
    return RuntimeError(f"{name_of(error)}: {message_of(error)}")


def _be_child(body: Callable[[], object], report: IO[bytes], mask: set[Any] | None, parent: int) -> None:
    """Run `body` and write what it returned to `report`. Never returns."""
    code = 1
    try:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with suppress(OSError, AttributeError):  # no Linux: it outlives a parent that is killed
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        _forget_exit_handlers()
        own_this_process()
        if os.getppid() == parent:
            report.write(pickle.dumps(body()))
            report.flush()
            code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # this process's own: temporary folders of libraries
        end_process(code)  # not through the parent's frames, which would end what the parent still uses


def _forget_exit_handlers() -> None:
    """Drop the handlers that were registered before the fork: they are the parent's to run."""
    atexit._clear()
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # as multiprocessing does with its own
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
