"""The Ray Tune trainable: runs one unit after another in a process that has imported everything once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from ray import tune

from raybench.execution import worker
from raybench.execution.message import decode_unit, encode_outcome
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome
from raybench.storage.base import Storage
from raybench.storage.open import open_storage

OUTCOME = "outcome"
STOP_POLL_S = 1.0


class Recycle(Exception):
    """Raised to end an actor whose memory is above its baseline; carries the outcome of the unit that it just ran."""

    def __init__(self, outcome: str, excess: str) -> None:
        self.outcome, self.excess = outcome, excess
        super().__init__(outcome, excess)


class UnitTrial(tune.Trainable):
    """Runs the units in its config, one in each step.

    The actor is reused for the next trial: importing torch in a fresh process takes seconds.
    """

    assignment: worker.Assignment  # set on a subclass made for each run
    stop_key: str

    def setup(self, config: dict[str, Any]) -> None:
        """Install plug-ins, import what units need and measure the memory baseline; once per process."""
        self._next = 0
        self._stop = StopSignal(open_storage(self.assignment.storage), self.stop_key)
        self.prepare()

    def prepare(self) -> None:
        """Import what units need, and measure the memory of the process without a unit."""
        worker.install_plugins(self.assignment.plugins)
        worker.preload()
        from raybench.execution.isolation import MemoryBaseline

        self._baseline = MemoryBaseline()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Accept the next trial's config; `step` leaves nothing else to reset."""
        self._next = 0
        return True

    def step(self) -> dict[str, Any]:
        """Run the next unit to its end. Raises Recycle when the process must be replaced."""
        units = self.config["units"]
        unit, outcome = decode_unit(units[self._next]), None
        self._next += 1
        with contextlib.suppress(KeyboardInterrupt), self._stop.enabled():
            outcome = self.execute(unit)
        text = encode_outcome(outcome)
        if excess := self.excess():
            raise Recycle(text, excess)
        return {OUTCOME: text, "done": outcome is None or self._next == len(units)}

    def execute(self, unit: Unit) -> Outcome:
        """Run one unit in this process."""
        return worker.execute(unit, self.assignment)

    def excess(self) -> str:
        """A sentence about memory that the last unit left behind; empty when there is none."""
        return self._baseline.excess()


class StopSignal:
    """Interrupts the main thread of this process, also while it waits for a lock, once `key` exists in the storage.

    It sends SIGINT. Ray blocks that signal in its workers and shells ignore it for background commands, so `enabled`
    unblocks it.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._storage, self._key = storage, key
        self._lock = threading.Lock()
        self._listening = False
        threading.Thread(target=self._watch, name="stop signal", daemon=True).start()

    @contextlib.contextmanager
    def enabled(self) -> Iterator[None]:
        """Context in which the main thread may be interrupted; outside it never is."""
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._listening = True
        try:
            yield
        finally:
            with self._lock:
                self._listening = False
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _watch(self) -> None:
        main_thread = threading.main_thread().ident
        assert main_thread is not None  # it has started: it made this thread
        idle = threading.Event()
        while not idle.wait(STOP_POLL_S):
            with contextlib.suppress(OSError):  # the storage is unreachable for a moment
                if self._listening and self._storage.has(self._key):
                    with self._lock:
                        if self._listening:
                            signal.pthread_kill(main_thread, signal.SIGINT)
                    return
