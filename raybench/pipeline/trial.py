"""One trial, as a story: base, sparsify, group, select, cut, fine-tune, measure. And how any unit of a plan is run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from raybench.errors import NotSupported, StageError
from raybench.pipeline import artifact, base, measure, select, sparsify
from raybench.pipeline.finetune import cut_network, finetune
from raybench.pipeline.journal import Execution
from raybench.pipeline.outcome import Outcome, is_done, label_of, settle
from raybench.pipeline.room import Room
from raybench.pipeline.row import Parts, row_of
from raybench.plan import Unit
from raybench.provenance import now
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.spec.trial import Trial
from raybench.storage.checkpoints import StageCheckpoint
from raybench.storage.leases import Lease
from raybench.tasks.open import open_task

Report = Callable[[str], None]  # told the name of each stage as it begins


def run_unit(unit: Unit, room: Room, report: Report = lambda stage: None) -> Outcome:
    """Run one unit of a plan under its lease. A trial's failure is an outcome (and a row), never an exception.

    Returns at once with status "busy" when another driver holds the unit: nobody waits with a device in hand.
    """
    lease = Lease(room.storage, unit.key)
    if not lease.acquire():
        return Outcome(unit.key, unit.kind, "busy")
    with ExitStack() as stack:
        stack.callback(lease.release)
        if is_done(unit, room.storage):  # by another driver, since this one planned
            return Outcome(unit.key, unit.kind, "ok")
        execution = Execution(room.storage, unit.key, unit.kind, label_of(unit))
        stack.enter_context(room.node.computing())
        try:
            summary = _RUN[unit.kind](unit, room, _announce(execution, report), execution)
        except NotSupported as error:
            return _ended(unit, room, execution, "skipped", error)
        except Exception as error:
            return _ended(unit, room, execution, "failed", error)
        except KeyboardInterrupt:
            execution.end("interrupted")
            raise
        execution.end("ok", summary=dict(summary))
        return Outcome(unit.key, unit.kind, "ok", execution.stage_name, seconds=execution.seconds, summary=summary)


def run_cell(trial: Trial, room: Room, announce: Report, note: base.Note) -> Record:
    """Surgery, fine-tuning and measuring of one cell; everything it shares with others is in the stage cache."""
    started_at, clock = now(), _Clock()
    announce("surgery")
    task = open_task(trial, room.data_roots, room.device, room.storage)
    dense, sparse, selection = base.load(trial, room), sparsify.load(trial, room), select.load(trial, room)
    pruned = cut_network(trial, selection.cut, task, room)
    measure.check_cost(pruned.model, selection.cut, task, room.device)
    after_pruning = task.evaluate(pruned.model, "test")
    clock.lap("prune")

    announce("finetune")
    training = finetune(trial, pruned, task, room)
    note(resumed_from=training.resumed_from)
    clock.lap("finetune")

    announce("measure")
    final = task.evaluate(pruned.model, "test")
    latency = measure.latency(trial, pruned.model, task, room)
    where = artifact.publish(room.storage, trial, pruned.model, selection.cut, task.data)
    clock.lap("measure")
    parts = Parts(
        task.metric, dense, sparse, selection, pruned, after_pruning, training, final, latency,
        clock.laps, started_at, where, room.device,
    )  # fmt: skip
    return row_of(trial, parts)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        self.laps[name] = time.perf_counter() - self._last
        self._last = time.perf_counter()


def _run_base(unit: Unit, room: Room, announce: Report, execution: Execution) -> Mapping[str, float]:
    announce("base")
    return base.run(unit.trials[0], room, execution.note).metrics


def _run_sparsify(unit: Unit, room: Room, announce: Report, execution: Execution) -> Mapping[str, float]:
    announce("sparsify")
    done = sparsify.run(unit.trials[0], room, execution.note)
    return {"epochs": len(done.curve)}


def _run_select(unit: Unit, room: Room, announce: Report, execution: Execution) -> Mapping[str, float]:
    announce("select")
    selections = select.run(unit.trials, room, execution.note)
    return {f"{s.cut.target:g}x": s.cut.speedup for s in selections}


def _run_cell(unit: Unit, room: Room, announce: Report, execution: Execution) -> Mapping[str, float]:
    trial = unit.trials[0]
    record = run_cell(trial, room, announce, execution.note)
    announce("publish")
    Store(room.storage).publish(record)
    StageCheckpoint(room.storage, trial.trial_id).clear()
    return {name: record[name] for name in ("metric_final", "metric_pruned", "metric_base", "speedup")}


_RUN = {"base": _run_base, "sparsify": _run_sparsify, "select": _run_select, "cell": _run_cell}


def _announce(execution: Execution, report: Report) -> Report:
    def announce(stage: str) -> None:
        execution.stage(stage)
        report(stage)

    return announce


def _ended(unit: Unit, room: Room, execution: Execution, status: str, error: Exception) -> Outcome:
    """Write down how a unit failed or why it was skipped; for a cell that is its row, too."""
    stage = error.stage if isinstance(error, StageError) else execution.stage_name
    kind, message = type(error).__name__, str(error) or type(error).__name__
    path = ""
    if status == "failed":
        path = f"tracebacks/{unit.key}-{time.time_ns()}.txt"
        room.storage.create(path, "".join(traceback.format_exception(error)).encode())
    execution.end(status, error=message, traceback=path)
    outcome = Outcome(unit.key, unit.kind, status, stage, kind, message, path, execution.seconds)
    if unit.kind == "cell":
        settle(outcome, unit.trials[0], Store(room.storage))
    return outcome
