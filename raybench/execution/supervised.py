"""Runs units of ``--local`` in a child process; the unit at which it dies of a signal becomes a failed row."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from raybench.errors import StageError
from raybench.execution.child import Death, begin, can_fork, portable
from raybench.execution.driver import Run
from raybench.execution.interrupt import LIMIT_S
from raybench.execution.limits import overdue
from raybench.execution.message import decode_outcome, encode_outcome
from raybench.execution.queue import UnitQueue
from raybench.plan.records import Plan, Unit
from raybench.progress.journal import executions_of
from raybench.progress.outcome import Outcome, label_of, settle
from raybench.results.store import Store

PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # what asks a process to end
POLL_S = 0.5  # between looks at the child when no signal says that it has ended


def supervised(work: Run, make_plan: Callable[[], Plan], body: Callable[[], None]) -> None:
    """Run `body`, which drives `work`, in a child process, and again without the units at which that process died.

    A unit that kills its process gets a failed row with the signal's name, and so do the cells that need it. Where a
    process can't be forked safely (torch or threads are there already, or an object store's connections), `body` runs
    in this process.

    Args:
        work: the run; its outcomes are those of the child afterwards.
        make_plan: what is missing in the storage now.
        body: called in the child.

    Raises:
        StageError: the child died while it ran no unit.
        Exception: what `body` raised.
    """
    if not can_fork(work.storage.url):
        body()
        return
    while death := _in_child(work, body):
        if death.signal in PASSED_ON:  # another process asked it to end, and this one too
            signal.signal(death.signal, signal.SIG_DFL)
            os.kill(os.getpid(), death.signal)
        plan = make_plan()
        if not _fail_units(work, plan, death):
            when = "between units" if work.outcomes else "before its first unit, while it checked or waited"
            raise StageError("check", f"{death} {when}; the same command goes on with what is missing")
        if work.closed.issuperset(unit.key for unit in plan.units):
            return


def _in_child(work: Run, body: Callable[[], None]) -> Death | None:
    """Run `body` in a child; None when it reported its end, which is then in `work`, or raised here.

    Outcomes of units that ended before the child died are in `work`, too: in this run they aren't tried again.
    """
    with tempfile.TemporaryFile() as report, tempfile.TemporaryFile(buffering=0) as notes:
        wanted = {number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}  # as by `nohup`
        watched = {*wanted, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        try:
            pid = begin(lambda: _end_of(work, body, notes), report, before)
            status, asked = _ended(pid, watched)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        report.seek(0)
        content = report.read()
        notes.seek(0)
        work.outcomes |= dict(_noted(notes.read()))
    if not content or status:
        death = Death(pid, status)
        if death.signal in PASSED_ON or not asked:
            return death
        work.interrupted = True  # it was asked to end, and had to be killed
        return None
    outcomes, work.interrupted, error = pickle.loads(content)
    work.outcomes |= outcomes
    if error is not None:
        raise error
    return None


def _ended(pid: int, watched: set[signal.Signals]) -> tuple[int, bool]:
    """Wait for the end of `pid`; returns its status, and whether a signal asked for it.

    Signals that processes send to this one alone are passed on; a terminal sends its Ctrl-C to both. A terminal that is
    closed sends SIGHUP to the leader of its session alone. The child is killed LIMIT_S later.
    """
    deadline = float("inf")
    while True:
        found = signal.sigtimedwait(watched, POLL_S)  # a library's thread, e.g. Arrow's, may take the SIGCHLD
        if found is not None and found.si_signo != signal.SIGCHLD:
            deadline = min(deadline, time.monotonic() + LIMIT_S)
            if found.si_code <= 0 or found.si_signo == signal.SIGHUP:
                os.kill(pid, found.si_signo)
            continue
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status, deadline < float("inf")
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)


class _Noted(dict[str, Outcome]):
    """Outcomes that are written down as they come, so that they outlive this process."""

    def __init__(self, known: Mapping[str, Outcome], notes: IO[bytes]) -> None:
        super().__init__(known)
        self._notes = notes

    def __setitem__(self, key: str, outcome: Outcome) -> None:
        super().__setitem__(key, outcome)
        self._notes.write(f"{encode_outcome(outcome)}\n".encode())


def _noted(content: bytes) -> Iterator[tuple[str, Outcome]]:
    """What a `_Noted` wrote, without a line that its process didn't finish."""
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n") and (outcome := decode_outcome(line.decode())):
            yield outcome.key, outcome


def _end_of(work: Run, body: Callable[[], None], notes: IO[bytes]) -> tuple[dict[str, Outcome], bool, Exception | None]:
    """(outcomes, whether interrupted, the exception) of `body`."""
    error: Exception | None = None
    work.outcomes = _Noted(work.outcomes, notes)
    try:
        body()
    except KeyboardInterrupt:
        work.interrupted = True
    except Exception as raised:
        error = portable(raised)
    return dict(work.outcomes), work.interrupted, error


def _fail_units(work: Run, plan: Plan, death: Death) -> bool:
    """Write failed rows for what the dead process was running, and for cells that need it; False if it ran nothing."""
    running = {
        entry["key"]: entry
        for entry in executions_of(work.storage, socket.gethostname(), death.pid)
        if entry["status"] == "running"
    }
    closed = work.closed
    died = [unit for unit in plan.units if unit.key in running and unit.key not in closed]
    work.queue = UnitQueue(plan, work.attempts, closed, work.outcomes)
    for unit in died:
        outcome = _outcome_of(unit, running[unit.key], death, work)
        work.watcher.say(
            f"{unit.kind} {label_of(unit)}: {outcome.error_message} in stage {outcome.stage}; its row says so"
        )
        for cell in [*_if_cell(unit), *work.queue.end(outcome)]:
            settle(outcome, cell.trials[0], Store(work.storage))
    return bool(died)


def _outcome_of(unit: Unit, entry: Mapping[str, Any], death: Death, work: Run) -> Outcome:
    """The failure of a unit at which its process died: by a signal, or because a stage hung."""
    stage = entry["stages"][-1]["stage"] if entry["stages"] else unit.kind
    if hung := overdue(entry, work.grants.of(unit).timeouts):
        return Outcome(unit.key, unit.kind, "failed", stage, "StageTimeout", hung)
    return Outcome(unit.key, unit.kind, "failed", stage, "WorkerDied", str(death))


def _if_cell(unit: Unit) -> list[Unit]:
    return [unit] if unit.kind == "cell" else []
