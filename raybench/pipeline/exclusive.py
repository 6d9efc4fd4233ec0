"""Machine-wide lock: timings are taken only while no other trial computes on this machine.

Two lock files for each user and machine. A process that computes holds `node` shared. A process that takes a timing
locks `gate`, so that no other starts computing, and then `node` exclusively. The locks are the kernel's (flock): a
killed process leaves none behind.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 60.0  # other units are stalled no longer than this while a unit waits for the machine
SHARED = "the machine was shared with other trials"  # reason of a missing timing
_POLL_S = 0.02


class Machine:
    """The locks of this machine. One object for each process, or for each thread that runs units."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"raybench-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._gate = os.open(folder / "gate.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._node = os.open(folder / "node.lock", os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def computing(self) -> Iterator[Machine]:
        """Context in which this process computes, together with others."""
        self._enter()
        try:
            yield self
        finally:
            fcntl.flock(self._node, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self, wait_s: float = WAIT_S) -> Iterator[bool]:
        """Context, inside `computing`, with no other process computing; yields False if that takes over `wait_s`."""
        deadline = time.monotonic() + wait_s
        fcntl.flock(self._node, fcntl.LOCK_UN)
        try:
            yield _lock(self._gate, deadline) and _lock(self._node, deadline)
        finally:
            fcntl.flock(self._node, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            self._enter()

    def _enter(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)  # waits while another process takes a timing
        fcntl.flock(self._node, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)


def _lock(handle: int, deadline: float) -> bool:
    """Lock `handle` exclusively before `deadline` (monotonic seconds); True on success."""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
