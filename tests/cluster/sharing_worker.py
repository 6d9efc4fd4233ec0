"""A trainable that writes down what each unit was given, and has no memory where it was given less than it needs."""

import json
from dataclasses import asdict

from raybench.plan.share import Copies, Share, encode_share, file_of
from raybench.progress.outcome import Outcome

from .fake_worker import FakeTrial

FOUR = Share(
    "digits", "test-convnet", "made up", 1e4, tuple(Copies(n, 1e3, 0.1, min(n, 4) * 10.0) for n in (1, 2, 4, 8))
)


class SharingTrial(FakeTrial):
    """Parameter: `needs`, the share of a GPU below which memory runs out."""

    def execute(self, unit):
        starts = len(self.store.list(f"grants/{unit.key}"))
        granted = asdict(self.grant) | {"assigned": self.assignment.granting(self.grant).gpus}
        self.store.create(f"grants/{unit.key}/{starts}", json.dumps(granted).encode())
        if self.grant.gpus < unit.trials[0].importance.params.get("needs", 0):
            message = "CUDA out of memory. Tried to allocate 2 GiB"
            return Outcome(unit.key, unit.kind, "failed", "finetune", "OutOfMemoryError", message)
        if unit.kind == "probe":
            self.store.create(file_of(unit.key), encode_share(FOUR))
        return super().execute(unit)
