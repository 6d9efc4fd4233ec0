"""A trainable that does what a unit's importance parameters say, instead of training. Pickled by value."""

import os
import signal
import time

from raybench.execution.actor import OUTCOME, UnitTrial
from raybench.execution.message import decode_unit, encode_outcome
from raybench.pipeline.outcome import Outcome
from raybench.storage.open import open_storage


class FakeTrial(UnitTrial):
    """Takes `importance.params["seconds"]`; "kill": N dies at the first N starts; "fail" fails."""

    def setup(self, config):
        self.store = open_storage(self.assignment.storage)

    def step(self):
        unit = decode_unit(self.config["unit"])
        params = unit.trials[0].importance.params if unit.kind == params_kind(unit) else {}
        starts = len(self.store.list(f"starts/{unit.key}"))
        self.store.create(f"starts/{unit.key}/{starts}", f"{time.time()} {os.getpid()}".encode())
        if starts < params.get("kill", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(params.get("seconds", 0))
        status = "failed" if params.get("fail") else "ok"
        self.store.create(f"ends/{unit.key}", str(time.time()).encode())
        outcome = Outcome(unit.key, unit.kind, status, unit.kind, "ValueError" if status == "failed" else "", "boom")
        return {OUTCOME: encode_outcome(outcome), "done": True}


def params_kind(unit):
    return unit.trials[0].importance.params.get("kind", "base")
