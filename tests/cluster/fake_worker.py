"""A trainable that does what a unit's importance parameters say, instead of training. Pickled by value."""

import os
import signal
import time

from raybench.execution.actor import UnitTrial
from raybench.progress.outcome import Outcome
from raybench.results.layout import cell_key
from raybench.storage.open import open_storage


def _made_by(unit):
    """The key from which the driver sees that the unit is done."""
    trial = unit.trials[0]
    if unit.kind == "cell":
        row = {"dataset": trial.dataset, "model": trial.model, "trial_id": unit.key, "status": "ok"}
        return cell_key(row)
    return f"stages/{trial.select_key if unit.kind == 'select' else unit.key}"


class FakeTrial(UnitTrial):
    """Parameters: `seconds` to sleep, `kill` (at so many starts), `terminate`, `leak`, and the `kind` that obeys.

    It sleeps until the key `until` is there, and only `together` seconds once two processes have run units.
    """

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
        if starts < params.get("terminate", 0):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            except SystemExit:  # as `raybench.pipeline.unit` turns SystemExit of a plug-in into a failure
                return Outcome(unit.key, unit.kind, "failed", unit.kind, "SystemExit")
        seconds = params.get("seconds", 0)
        if "together" in params:
            self.store.create(f"pids/{os.getpid()}", b"")
            seconds = seconds if len(self.store.list("pids")) < 2 else params["together"]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.store.has(params.get("until", "never")):
            time.sleep(min(0.05, seconds))
        self.store.create(f"ends/{unit.key}", str(time.time()).encode())
        self.store.create(_made_by(unit), b"")
        return Outcome(unit.key, unit.kind, "ok", unit.kind, seconds=time.time() - begun)
