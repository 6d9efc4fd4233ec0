"""A trainable that does what a unit's importance parameters say, instead of training. Pickled by value."""

import contextlib
import os
import signal
import time

from raybench.execution.actor import OUTCOME, Recycle, StopSignal, UnitTrial
from raybench.execution.message import decode_unit, encode_outcome
from raybench.progress.outcome import Outcome
from raybench.storage.open import open_storage


class FakeTrial(UnitTrial):
    """Parameters: `seconds` to sleep, `kill` (dies at so many starts), `leak`, and the `kind` of unit that obeys."""

    def setup(self, config):
        self.store = open_storage(self.assignment.storage)
        self.stop_signal = StopSignal(self.store, self.stop_key)

    def step(self):
        unit, outcome = decode_unit(self.config["unit"]), None
        params = unit.trials[0].importance.params
        if params.get("kind", "base") != unit.kind:
            params = {}
        with contextlib.suppress(KeyboardInterrupt), self.stop_signal.enabled():
            outcome = self.act(unit, params)
        if params.get("leak"):
            raise Recycle(encode_outcome(outcome), "2048 MiB of memory above the baseline")
        return {OUTCOME: encode_outcome(outcome), "done": True}

    def act(self, unit, params):
        starts = len(self.store.list(f"starts/{unit.key}"))
        self.store.create(f"starts/{unit.key}/{starts}", f"{time.time()} {os.getpid()}".encode())
        if starts < params.get("kill", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        deadline = time.monotonic() + params.get("seconds", 0)
        while time.monotonic() < deadline:
            time.sleep(0.05)
        self.store.create(f"ends/{unit.key}", str(time.time()).encode())
        return Outcome(unit.key, unit.kind, "ok", unit.kind)
