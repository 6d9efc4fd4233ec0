"""What a Ray Tune actor does: run one unit after another in a process that has everything imported."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from ray import tune

from raybench.execution import worker
from raybench.execution.message import decode_unit, encode_outcome
from raybench.storage.base import Storage
from raybench.storage.open import open_storage

OUTCOME = "outcome"
STOP_POLL_S = 1.0


class Recycle(Exception):
    """Ends an actor whose memory is not back at its baseline; the unit's own outcome comes along."""

    def __init__(self, outcome: str, excess: str) -> None:
        self.outcome, self.excess = outcome, excess
        super().__init__(outcome, excess)


class UnitTrial(tune.Trainable):
    """Runs the unit in its config. Reused for the next one: a fresh process takes seconds to import torch."""

    assignment: worker.Assignment  # set on a subclass of each run
    stop_key: str

    def setup(self, config: dict[str, Any]) -> None:
        """Once per process."""
        worker.install_plugins(self.assignment.plugins)
        worker.preload()
        from raybench.execution.isolation import MemoryBaseline

        self._stop = StopSignal(open_storage(self.assignment.storage), self.stop_key)
        self._baseline = MemoryBaseline()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next unit: nothing of the one before is left, `step` saw to it."""
        return True

    def step(self) -> dict[str, Any]:
        """Run the unit to its end."""
        outcome = None
        with contextlib.suppress(KeyboardInterrupt), self._stop.heard():
            outcome = worker.execute(decode_unit(self.config["unit"]), self.assignment)
        text = encode_outcome(outcome)
        if excess := self._baseline.excess():
            raise Recycle(text, excess)
        return {OUTCOME: text, "done": True}


class StopSignal:
    """Interrupts the main thread of this process, waits for locks included, as soon as `key` exists in the storage.

    By SIGINT, which Ray blocks in its workers and a command in the background has ignored: let through in `heard`.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._storage, self._key = storage, key
        self._lock = threading.Lock()
        self._listening = False
        threading.Thread(target=self._watch, name="stop signal", daemon=True).start()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Only in here is the thread interrupted."""
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._listening = True
        try:
            yield
        finally:
            with self._lock:
                self._listening = False
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _watch(self) -> None:
        idle = threading.Event()
        while not idle.wait(STOP_POLL_S):
            with contextlib.suppress(OSError):  # a storage that is away for a moment
                if self._listening and self._storage.has(self._key):
                    with self._lock:
                        if self._listening:
                            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                    return
