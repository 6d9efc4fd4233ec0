"""One thread of a process renews all its leases: starting one for each short unit costs as much as the unit."""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from typing import Protocol

IDLE_S = 5.0  # how long the thread sleeps at most; a lease that is due later needs no wake-up


class Renewable(Protocol):
    """What is renewed from time to time."""

    def renew(self) -> bool:
        """Renew it; False when it needs no more."""


class Renewals:
    """The leases of this process, and the thread that renews them."""

    def __init__(self) -> None:
        self._due: dict[Renewable, tuple[float, float]] = {}  # -> (when, period)
        self._changed = threading.Condition()
        self._wakes = float("inf")
        threading.Thread(target=self._run, name="renewals of leases", daemon=True).start()

    def add(self, lease: Renewable, period: float) -> None:
        """Renew `lease` every `period` seconds from now on."""
        due = time.monotonic() + period
        with self._changed:
            self._due[lease] = (due, period)
            if due < self._wakes:
                self._changed.notify()

    def remove(self, lease: Renewable) -> None:
        """Renew `lease` no more; one renewal may still run."""
        with self._changed:
            self._due.pop(lease, None)

    def _run(self) -> None:
        while True:
            for lease in self._wait():
                if not lease.renew():
                    self.remove(lease)

    def _wait(self) -> list[Renewable]:
        """Sleep until a lease is due, at most IDLE_S; those that are, whose next time is set."""
        with self._changed:
            now = time.monotonic()
            self._wakes = min((when for when, _ in self._due.values()), default=now + IDLE_S)
            self._wakes = min(self._wakes, now + IDLE_S)
            self._changed.wait(max(self._wakes - now, 0))
            now = time.monotonic()
            due = [lease for lease, (when, _) in self._due.items() if when <= now]
            for lease in due:
                period = self._due[lease][1]
                self._due[lease] = (now + period, period)
            return due


def renewals() -> Renewals:
    """Those of this process."""
    return _of_process(os.getpid())


@cache
def _of_process(pid: int) -> Renewals:
    """By the process's number: a fork has none of its parent's threads."""
    return Renewals()
