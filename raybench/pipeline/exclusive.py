"""Timings are taken while no other trial of this machine computes, or not at all (BLUEPRINT rule 7).

Two lock files per user and machine. Whoever computes holds `node` shared. Whoever wants to time closes
`gate` (so that nobody new starts computing), waits until it can hold `node` alone, and times. Locks are
the kernel's (flock): a killed process leaves none behind.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 60.0  # a unit that computes for hours must not stall its neighbours longer than this
SHARED = "the machine was shared with other trials"  # why a timing is missing
_POLL_S = 0.02


class Node:
    """This process's hold on the machine. One per process, or per thread that runs units."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"raybench-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._gate = os.open(folder / "gate.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._node = os.open(folder / "node.lock", os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def computing(self) -> Iterator[Node]:
        """Hold the machine together with others while a unit runs."""
        self._enter()
        try:
            yield self
        finally:
            fcntl.flock(self._node, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self, wait_s: float = WAIT_S) -> Iterator[bool]:
        """Hold the machine alone; yields False when that was not to be had within `wait_s` seconds."""
        deadline = time.monotonic() + wait_s
        fcntl.flock(self._node, fcntl.LOCK_UN)
        try:
            yield _lock(self._gate, deadline) and _lock(self._node, deadline)
        finally:
            fcntl.flock(self._node, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            self._enter()

    def _enter(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)  # waits while somebody times
        fcntl.flock(self._node, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)


def _lock(handle: int, deadline: float) -> bool:
    """Take `handle` alone before `deadline` (monotonic seconds); True when it worked."""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
