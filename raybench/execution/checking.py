"""Checks what a run is about to read in a child process, while this one starts Ray."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from raybench.errors import StageError
from raybench.execution.child import Death, begin, can_fork, portable, shared_file
from raybench.execution.driver import Run
from raybench.execution.interrupt import asked_to_end
from raybench.execution.lengths import Work
from raybench.plan.records import Unit

POLL_S = 0.02  # between looks at the child


def check(work: Run, units: Sequence[Unit]) -> Work:
    """The work of an epoch of each (dataset, model) of `units`. UserError lists every mistake; nothing has run then."""
    from raybench.execution.torch_settings import Settings
    from raybench.pipeline.check import check_input

    settings = Settings.now()
    try:
        return check_input(units, work.assignment.data_roots, work.storage, asked_to_end)
    finally:
        settings.restore()  # what the import of a network's module has set


@contextmanager
def checking(work: Run, units: Sequence[Unit]) -> Iterator[Callable[[], Work]]:
    """Context of a `check` of `units` beside what happens in it; the function waits for its result, or its error.

    Where a process can't be forked safely, the check is over before the context begins.
    """
    if not can_fork(work.storage.url):
        work.watcher.checking()
        found = check(work, units)
        yield lambda: found
        return
    with shared_file() as report:
        child = _Child(begin(lambda: _end_of(work, units), report), report)
        try:
            work.watcher.checking()
            yield child.result
        finally:
            child.end()


def _end_of(work: Run, units: Sequence[Unit]) -> tuple[Work, Exception | None]:
    try:
        return check(work, units), None
    except Exception as error:
        return {}, portable(error)


@dataclass
class _Child:
    """The process that checks."""

    pid: int
    report: IO[bytes]
    ended: bool = False

    def result(self) -> Work:
        """Wait for the process; raises what the check raised. StageError when the process died."""
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            time.sleep(POLL_S)
        self.ended = True
        self.report.seek(0)
        content = self.report.read()
        if status or not content:
            death = Death(self.pid, status)
            raise StageError("check", f"{death} while it checked data, weights and networks, before the first unit")
        found: Work
        found, error = pickle.loads(content)
        if error is not None:
            raise error
        return found

    def end(self) -> None:
        """End the process, if `result` didn't see its end."""
        if not self.ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
