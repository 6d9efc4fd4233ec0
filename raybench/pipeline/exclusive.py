"""Machine-wide lock: timings are taken only while no other trial computes on this machine.

Two lock files for each user and machine. A process that computes holds `node` shared. A process that takes a timing
locks `gate`, so that no other starts computing, and then `node` exclusively. The others see between two of their steps
that the gate is locked, let go of `node` and wait (`give_way`). The locks are the kernel's (flock): a killed process
leaves none behind. One that is stopped while it takes a timing is waited for a minute; then the others go on, and its
timing doesn't count. One that is stopped while it computes isn't waited for: the timing counts unless it went on.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from raybench.errors import UserError
from raybench.storage.processes import is_stopped, stat_of

WAIT_S = 60.0  # other units are stalled no longer than this while a unit waits for the machine
SHARED = "the machine was shared with other trials"  # reason of a missing timing
NOTICE_S = 10.0  # a longer wait is reported, with its reason
LOOK_S = 0.5  # time between two looks at who computes
STOPPED_S = 60.0  # a process that is stopped holds the others up no longer than this
_POLL_S = 0.004  # a timing holds up the others, so the wait for it counts twice
T = TypeVar("T")


class Turn:
    """The machine for one process alone. False if it didn't get it, or lost it because it was stopped meanwhile."""

    def __init__(self, asleep: Mapping[int, float] | None, overrun: Path) -> None:
        """`asleep`: stopped process -> CPU seconds that it has used, of those that computed; None: no turn."""
        self._since, self._asleep, self._overrun = time.monotonic(), asleep, overrun

    def __bool__(self) -> bool:
        if self._asleep is None or any(_cpu_seconds(pid) > used for pid, used in self._asleep.items()):
            return False
        try:
            return float(self._overrun.read_text()) < self._since
        except (OSError, ValueError):
            return True  # nobody ever went on without its turn


class Machine:
    """The locks of this machine. One object for each process, or for each thread that runs units."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = own_folder(folder or user_folder())
        self._overrun = folder / "overrun"
        self._notice: Callable[[str], None] = lambda text: None
        self._own_turn = False
        self._gate = os.open(folder / "gate.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._node = os.open(folder / "node.lock", os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def computing(self, notice: Callable[[str], None] = lambda text: None) -> Iterator[Machine]:
        """Context in which this process computes, together with others. `notice` gets a line about a long wait."""
        self._notice = notice
        self._enter()
        try:
            yield self
        finally:
            fcntl.flock(self._node, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self, wait_s: float = WAIT_S) -> Iterator[Turn]:
        """Context, inside `computing`, with no other process computing. The Turn is false if that takes over `wait_s`.

        Ask it once more after the timing: it is false then if this process was stopped and the others went on.
        """
        deadline = time.monotonic() + wait_s
        fcntl.flock(self._node, fcntl.LOCK_UN)
        self._own_turn = True
        try:
            yield Turn(self._alone_by(deadline) if lock_by(self._gate, deadline) else None, self._overrun)
        finally:
            fcntl.flock(self._node, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            self._own_turn = False
            self._enter()

    def give_way(self, before: Callable[[], None] = lambda: None) -> float:
        """Between two steps, inside `computing`: let a process that waits take its timing. Seconds that this took.

        `before` is called if there is one; then this process must not compute any more, on any device.
        """
        if self._own_turn:
            return 0.0
        if lock_by(self._gate, 0.0, fcntl.LOCK_SH):
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            return 0.0
        before()
        began = time.monotonic()
        fcntl.flock(self._node, fcntl.LOCK_UN)
        self._enter()
        return time.monotonic() - began

    def timed(self, timing: Callable[[], T]) -> tuple[T, None] | tuple[None, str]:
        """(What `timing` returns, None), with no other process computing; (None, the reason) if that can't be had."""
        with self.exclusive() as alone:
            if not alone:
                return None, SHARED
            found = timing()
            return (found, None) if alone else (None, SHARED)

    def _alone_by(self, deadline: float) -> dict[int, float] | None:
        """Wait until no other process computes: those that hold `node` then, all stopped. None at the deadline."""
        notice_at = time.monotonic() + NOTICE_S
        while not lock_by(self._node, min(time.monotonic() + LOOK_S, deadline)):
            found = _holders(self._node, "READ")
            if found and all(map(is_stopped, found)):
                return {pid: _cpu_seconds(pid) for pid in found}
            if time.monotonic() > deadline:
                return None
            if time.monotonic() > notice_at:
                notice_at = deadline
                names = ", ".join(map(str, found)) or "unknown"
                self._notice(f"a timing waits for process {names}, which computes")
        return {}

    def _enter(self) -> None:
        for handle in (self._gate, self._node):
            if not self._wait_for(handle):
                self._overrun.write_text(str(time.monotonic()))
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _wait_for(self, handle: int) -> bool:
        """Lock `handle` shared once no process takes a timing; False if that process is stopped."""
        began = time.monotonic()
        if lock_by(handle, began + NOTICE_S, fcntl.LOCK_SH):
            return True
        holder = _holder(handle)
        self._notice(f"process {holder or 'unknown'} takes a timing{' and is stopped' if is_stopped(holder) else ''}")
        while not lock_by(handle, time.monotonic() + NOTICE_S / 2, fcntl.LOCK_SH):
            holder = _holder(handle)
            if is_stopped(holder) and time.monotonic() - began > STOPPED_S:
                self._notice(f"process {holder} is stopped while it takes a timing: going on without it")
                return False
        return True


def user_folder() -> Path:
    """The place of this user's own temporary files on this machine; `own_folder` makes it."""
    return Path(tempfile.gettempdir()) / f"raybench-{os.getuid()}"


def own_folder(folder: Path) -> Path:
    """`folder`, made for this user alone. UserError if it is there already and belongs to another one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(
            f"{folder}: found a folder or link of another user; remove it, or set TMPDIR to a folder of yours"
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _holder(handle: int) -> int:
    """The process with an exclusive lock on the file of `handle`; 0 if unknown."""
    return next(iter(_holders(handle, "WRITE")), 0)


def _holders(handle: int, kind: str) -> list[int]:
    """The processes with a lock on the file of `handle`, ``READ`` (shared) or ``WRITE``, from Linux's list of locks."""
    file = os.fstat(handle)
    name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    try:
        fields = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    return [int(f[4]) for f in fields if len(f) > 5 and f[1] == "FLOCK" and f[3] == kind and f[5] == name]


def _cpu_seconds(pid: int) -> float:
    """CPU time that process `pid` has used; infinite where it isn't known."""
    try:
        fields = stat_of(pid)
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lock_by(handle: int, deadline: float, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock `handle` before `deadline` (monotonic seconds), exclusively by default; True on success."""
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
