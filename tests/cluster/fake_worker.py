"""A trainable that does what a unit's importance parameters say, instead of training. Pickled by value."""

import os
import signal
import time

from raybench.execution.actor import UnitTrial
from raybench.progress.outcome import Outcome
from raybench.storage.open import open_storage


class FakeTrial(UnitTrial):
    """Parameters: `seconds` to sleep, `kill` (dies at so many starts), `leak`, and the `kind` of unit that obeys."""

    def prepare(self):
        self.store, self.leaks = open_storage(self.assignment.storage), False

    def execute(self, unit):
        params = unit.trials[0].importance.params
        if params.get("kind", "base") != unit.kind:
            params = {}
        self.leaks = params.get("leak", False)
        return self.act(unit, params)

    def excess(self):
        return "2048 MiB of memory above the baseline" if self.leaks else ""

    def act(self, unit, params):
        begun = time.time()
        starts = len(self.store.list(f"starts/{unit.key}"))
        self.store.create(f"starts/{unit.key}/{starts}", f"{begun} {os.getpid()}".encode())
        if starts < params.get("kill", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        deadline = time.monotonic() + params.get("seconds", 0)
        while time.monotonic() < deadline:
            time.sleep(0.05)
        self.store.create(f"ends/{unit.key}", str(time.time()).encode())
        return Outcome(unit.key, unit.kind, "ok", unit.kind, seconds=time.time() - begun)
