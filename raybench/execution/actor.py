"""The Ray Tune trainable: runs one unit after another in a process that has imported everything once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ray import tune

from raybench.execution import worker
from raybench.execution.grants import Grant
from raybench.execution.limits import own_this_process
from raybench.execution.message import decode_grant, decode_unit, encode_outcome
from raybench.execution.teams import Teams
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome
from raybench.storage.base import Storage
from raybench.storage.open import open_storage

OUTCOMES = "outcomes"
STEP_S = 1.0  # a step begins no unit after it: each step costs a round trip through Tune, some 25 ms
STOP_POLL_S = 1.0
AGAIN_S = 3.0  # until the next SIGINT: an import or a callback of a library may swallow the KeyboardInterrupt
TEAM_END_S = 5.0  # for a team to end before its trial does, which ends it in any case


class Recycle(Exception):
    """Raised to end an actor whose memory is above its baseline; carries the outcomes of the units that it just ran."""

    def __init__(self, outcomes: list[str], excess: str) -> None:
        self.outcomes, self.excess = outcomes, excess
        super().__init__(outcomes, excess)


class Terminated(KeyboardInterrupt):
    """Ray asked this process to end (SIGTERM) while a unit ran, which is interrupted, not failed."""


class UnitTrial(tune.Trainable):
    """Runs the units in its config, one in each step, or as many short ones as begin within STEP_S.

    The actor is reused for the next trial: importing torch in a fresh process takes seconds.
    """

    assignment: worker.Assignment  # set on a subclass made for each run
    stop_key: str
    grant: Grant  # what the unit that runs has

    def setup(self, config: dict[str, Any]) -> None:
        """Install plug-ins, import what units need and measure the memory baseline; once per process."""
        self._next = 0
        own_this_process()
        self._stop = StopSignal(open_storage(self.assignment.storage), self.stop_key)
        self._executing, self._terminate = False, signal.getsignal(signal.SIGTERM)
        self._ending = False
        if callable(self._terminate):  # Ray's handler raises SystemExit, as a plug-in's sys.exit() does
            signal.signal(signal.SIGTERM, self._terminated)
        starts_teams = decode_grant(config["grants"][0]).processes > 1  # so do all that follow here
        self._teams = Teams(self.assignment, self.stop_key) if starts_teams else None
        if not starts_teams:
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
        """Run the next units to their ends. Raises Recycle when the process must be replaced."""
        units, outcomes = self.config["units"], list[str]()
        if self._teams is not None:
            text = self._teams.run(units[self._next], self.config["grants"][self._next])
            self._next += 1
            return {OUTCOMES: [text] if text else [], "done": text is None or self._next == len(units)}
        deadline = time.monotonic() + STEP_S
        while True:
            unit, outcome = decode_unit(units[self._next]), None
            self.grant = decode_grant(self.config["grants"][self._next])
            self._next += 1
            try:
                with self._stop.enabled():
                    self._executing = True
                    outcome = self.execute(unit)
            except Terminated:
                raise SystemExit(1) from None
            except KeyboardInterrupt:
                outcome = None
            finally:
                self._executing = False
            outcomes.append(encode_outcome(outcome))
            if excess := self.excess():
                raise Recycle(outcomes, excess)
            done = outcome is None or self._next == len(units)
            if done or time.monotonic() > deadline:
                return {OUTCOMES: outcomes, "done": done}

    def cleanup(self) -> None:
        """End the processes of a team."""
        if self._teams is not None:
            self._teams.close(TEAM_END_S)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the unit that runs, or let Ray end the process."""
        if self._executing:
            self._ending = True
            raise Terminated
        assert callable(self._terminate)
        self._terminate(number, frame)

    def execute(self, unit: Unit) -> Outcome:
        """Run one unit in this process."""
        return worker.execute(unit, self.assignment.granting(self.grant), asked=self._asked)

    def _asked(self) -> bool:
        """Whether the run stops, or Ray ends this process: else a KeyboardInterrupt is a plug-in's own."""
        return self._ending or self._stop.given

    def excess(self) -> str:
        """A sentence about memory that the last unit left behind; empty when there is none."""
        return self._baseline.excess()


class StopSignal:
    """Interrupts the main thread of this process, also while it waits for a lock, once `key` exists in the storage.

    It sends SIGINT, and again until no unit runs. Ray blocks that signal in its workers and shells ignore it for
    background commands, so `enabled` unblocks it.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._storage, self._key = storage, key
        self._lock = threading.Lock()
        self._listening = False
        self.given = False  # whether the key was there
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
                    self.given = True
                    with self._lock:
                        if self._listening:
                            signal.pthread_kill(main_thread, signal.SIGINT)
                    idle.wait(AGAIN_S - STOP_POLL_S)
