"""Units that compute nothing but leave all that real ones leave: lease, journal, stage folder or row."""

from __future__ import annotations

import time

from raybench.execution.actor import UnitTrial
from raybench.execution.worker import preload
from raybench.pipeline import trial as stages
from raybench.pipeline.context import Note, StageContext
from raybench.plan.records import Unit, UnitKind
from raybench.provenance import provenance
from raybench.results.schema import Record
from raybench.results.store import Store

FIGURES = {
    "speedup": 2.0, "macs_base": 2, "macs": 1, "params_base": 2, "params": 1, "metric_name": "top1", "metric_base": 1.0,
    "metric_pruned": 1.0, "metric_final": 1.0, "exclusive": False, "device": "cpu", "curve": [], "layers": [],
    "kept": {}, "timing_reason": "nothing is computed",
}  # fmt: skip


class NoOpTrial(UnitTrial):
    """Runs units with their stages replaced; `raybench.pipeline.unit` and what lies below it are the real ones."""

    sleep_s: float = 0.0
    _used: float  # processor time until the last cell

    def prepare(self) -> None:
        """Import as a real worker does, then replace the stages in this process."""
        preload()
        self._used = time.process_time()
        kinds: tuple[UnitKind, ...] = ("base", "sparsify", "select")
        stages.RUN.update(dict.fromkeys(kinds, self._stage) | {"cell": self._cell})  # type: ignore[attr-defined]

    def excess(self) -> str:
        """Nothing is computed, so nothing is left behind."""
        return ""

    def _stage(self, unit: Unit, context: StageContext, announce: stages.Announce, note: Note) -> stages.Summary:
        announce(unit.kind)
        keys = [trial.select_key for trial in unit.trials] if unit.kind == "select" else [unit.key]
        for key in keys:
            context.storage.create(f"stages/{key}", b"")
        return {}

    def _cell(self, unit: Unit, context: StageContext, announce: stages.Announce, note: Note) -> stages.Summary:
        announce("finetune")
        used, self._used = time.process_time() - self._used, time.process_time()
        time.sleep(self.sleep_s)
        announce("publish")
        conditions = {"provenance": provenance(device_name="none", threads=1)}
        Store(context.storage).publish(Record.of_trial(unit.trials[0], **FIGURES, **conditions))
        return {"metric_final": 1.0, "cpu_s": used}
