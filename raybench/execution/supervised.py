"""Runs units of ``--local`` in a child process; the unit at which it dies of a signal becomes a failed row."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

from raybench.errors import StageError
from raybench.execution.causes import MAX_ATTEMPTS
from raybench.execution.child import Death, begin, can_fork, portable, shared_file
from raybench.execution.driver import Run
from raybench.execution.interrupt import LIMIT_S
from raybench.execution.limits import overdue
from raybench.execution.notes import Noted, note_changes, recall
from raybench.execution.queue import UnitQueue
from raybench.execution.waits import Wait, for_another_run
from raybench.plan.records import Plan, Unit
from raybench.progress.journal import WAITING, read_journal
from raybench.progress.outcome import Outcome, label_of, settle
from raybench.results.store import Store
from raybench.storage.leases import Lease
from raybench.storage.processes import is_stopped

PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # what asks a process to end
SENT = {0, -1, -6, 0x80}  # si_code of a signal that a process or the kernel sent: kill, sigqueue, tgkill, a terminal
POLL_S = 0.5  # between looks at the child when no signal says that it has ended
Report = tuple[dict[str, Outcome], bool, Exception | None]  # outcomes, whether it was interrupted, what it raised


def supervised(work: Run, first: Plan, make_plan: Callable[[], Plan], body: Callable[[], None]) -> None:
    """Run `body`, which drives `work`, in a child process, and again without the units at which that process died.

    A unit that kills its process gets a failed row with the signal's name, and so do the cells that need it. A process
    that dies while it runs no unit, as it checks or waits, is replaced, too, until MAX_ATTEMPTS in a row ended nothing.
    Where a process can't be forked safely (torch or threads are there already, or an object store's connections),
    `body` runs in this process.

    Args:
        work: the run; its outcomes are those of the child afterwards.
        first: the plan that the run begins with.
        make_plan: what is missing in the storage now.
        body: called in the child.

    Raises:
        StageError: children died again and again while they ran no unit.
        Exception: what `body` raised.
    """
    if not can_fork(work.storage.url):
        body()
        return
    known = {unit.key: unit for unit in first.units}
    work.tally.begin(known, work.outcomes)
    in_vain = 0  # deaths in a row outside of a unit, without an end of one between
    while end := _in_child(work, body):
        death, noted = end
        if death.signal in PASSED_ON:  # another process asked it to end, and this one too
            signal.signal(death.signal, signal.SIG_DFL)
            os.kill(os.getpid(), death.signal)
        work.watcher.recover()
        plan = make_plan()
        left = {unit.key: unit for unit in plan.units}
        _count_done(work, known, left)
        known |= left
        struck = _fail_unit(work, plan, death, noted)
        if work.closed.issuperset(left):
            return
        done = noted.ended or (noted.unit and noted.unit not in left)  # it died before it could say so
        in_vain = 0 if struck else 1 if done else in_vain + 1
        if not struck:
            _go_on_or_end(f"{death} {_outside(work, plan, noted)}", in_vain, work)


def _count_done(work: Run, known: Mapping[str, Unit], left: Mapping[str, Unit]) -> None:
    """Count what no process reported: the last result of the dead one, and what other runs did meanwhile."""
    for key, unit in known.items():
        if key not in left and (key not in work.outcomes or work.outcomes[key].status == "again"):
            work.outcomes[key] = Outcome(key, unit.kind, "ok")


def _go_on_or_end(what: str, in_vain: int, work: Run) -> None:
    """Say that a process died outside of a unit; StageError if that makes `in_vain` too many."""
    if in_vain < MAX_ATTEMPTS:
        work.watcher.say(f"{what}; starting another one")
        return
    many = f"{in_vain} processes in a row have died outside of a unit"
    raise StageError("check", f"{what}. {many}; the same command goes on with what is missing")


def _in_child(work: Run, body: Callable[[], None]) -> tuple[Death, Noted] | None:
    """Run `body` in a child; None when it reported its end, which is then in `work`, or raised here.

    Outcomes and attempts of a child that died are in `work`, too.
    """
    with shared_file() as report, shared_file() as notes:
        wanted = {number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}  # as by `nohup`
        watched = {*wanted, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        try:
            pid = begin(lambda: _end_of(work, body, notes), report, before)
            status, asked = _ended(pid, watched, Wait(work.watcher.say))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        report.seek(0)
        reported = _whole(report.read())
        notes.seek(0)
        noted = recall(work, notes.read())
    if reported is None:
        death = Death(pid, status)
        if death.signal in PASSED_ON or not asked:
            return death, noted
        work.interrupted = True  # it was asked to end, and had to be killed
        return None
    outcomes, work.interrupted, error = reported
    work.outcomes |= outcomes
    if error is not None:
        raise error
    return None


def _ended(pid: int, watched: set[signal.Signals], still: Wait) -> tuple[int, bool]:
    """Wait for the end of `pid`; returns its status, and whether a signal asked for it.

    Signals that processes send to this one alone are passed on; a terminal sends its Ctrl-C to both. A terminal that is
    closed sends SIGHUP to the leader of its session alone. The child is killed LIMIT_S later. `still` says when it is
    stopped (SIGSTOP) for long.
    """
    deadline = float("inf")
    while True:
        found = signal.sigtimedwait(watched, POLL_S)  # a library's thread, e.g. Arrow's, may take the SIGCHLD
        # After a stop (Ctrl-Z) that outlasts the wait, Python returns a signal that never came, with any numbers.
        if found is not None and found.si_signo in PASSED_ON and found.si_code in SENT:
            deadline = min(deadline, time.monotonic() + LIMIT_S)
            if found.si_code <= 0 or found.si_signo == signal.SIGHUP:
                os.kill(pid, found.si_signo)
            continue
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status, deadline < float("inf")
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        if is_stopped(pid):
            still.lasts(lambda: f"waiting for process {pid}, which runs the units and is stopped; kill -CONT {pid}")
        else:
            still.over()


def _end_of(work: Run, body: Callable[[], None], notes: IO[bytes]) -> Report:
    """What `body` leaves."""
    error: Exception | None = None
    note_changes(work, notes)
    try:
        body()
    except KeyboardInterrupt:
        work.interrupted = True
    except Exception as raised:
        error = portable(raised)
    return dict(work.outcomes), work.interrupted, error


def _whole(content: bytes) -> Report | None:
    """The report of a child, which may have died after it, in a library's exit handler; None if it isn't complete."""
    try:
        report: Report = pickle.loads(content)
    except (EOFError, pickle.UnpicklingError):
        return None
    return report


def _fail_unit(work: Run, plan: Plan, death: Death, noted: Noted) -> bool:
    """Write failed rows for what the dead process was running, and for cells that need it; False if it ran nothing."""
    closed = work.closed
    work.queue = UnitQueue(plan, work.attempts, closed, work.outcomes)
    unit = work.queue.units.get(noted.unit)
    if unit is None:  # it ran none, or one whose result it had published
        return False
    entry = _execution(work, unit, death.pid)
    if entry is None:
        return False
    outcome = _outcome_of(unit, entry, death, work)
    work.watcher.say(f"{unit.kind} {label_of(unit)}: {outcome.error_message} in stage {outcome.stage}; its row says so")
    for cell in [*_if_cell(unit), *work.queue.end(outcome)]:
        settle(outcome, cell.trials[0], Store(work.storage))
    return True


def _execution(work: Run, unit: Unit, pid: int) -> Mapping[str, Any] | None:
    """What process `pid` ran of `unit` when it died, as its journal says; None if it ran nothing of it."""
    own = (socket.gethostname(), pid)
    entries = [one for one in read_journal(work.storage, unit.key) if (one["host"], one["pid"]) == own]
    if not entries and not Lease(work.storage, unit.key).taken:  # not another run's: it died in imports of the unit
        return {"status": "running", "started": time.time(), "stages": []}
    running = [one for one in entries if one["status"] == "running"]
    return running[-1] if running else None


def _outcome_of(unit: Unit, entry: Mapping[str, Any], death: Death, work: Run) -> Outcome:
    """The failure of a unit at which its process died: by a signal, or because a stage hung."""
    stages = [one["stage"] for one in entry["stages"] if not one["stage"].startswith(WAITING)]
    stage = stages[-1] if stages else unit.kind
    if hung := overdue(entry, work.grants.of(unit).timeouts):
        return Outcome(unit.key, unit.kind, "failed", stage, "StageTimeout", hung)
    return Outcome(unit.key, unit.kind, "failed", stage, "WorkerDied", str(death))


def _if_cell(unit: Unit) -> list[Unit]:
    return [unit] if unit.kind == "cell" else []


def _outside(work: Run, plan: Plan, noted: Noted) -> str:
    """What a process that ran no unit was doing when it died."""
    if not noted.began:
        return "before its first unit, in its checks or imports"
    left = {unit.key: unit for unit in plan.units if unit.key not in work.closed}
    ready = [unit for unit in left.values() if not left.keys() & set(unit.needs)]
    held = {key.split("/")[1] for key in work.storage.list("leases")}
    if ready and all(unit.key in held and Lease(work.storage, unit.key).taken for unit in ready):
        return f"while {for_another_run(ready, work.storage)}"
    return "between units"
