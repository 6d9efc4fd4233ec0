"""The stages of a trial: base, sparsify, select (shared by cells), then cut, fine-tune, measure (one cell)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from raybench.pipeline import artifact, base, cache, measure, patches, select, sparsify
from raybench.pipeline.context import Note, StageContext
from raybench.pipeline.cut import cut_network
from raybench.pipeline.early_stop import StoppedEarly
from raybench.pipeline.finetune import finetune
from raybench.pipeline.network import model_of
from raybench.pipeline.probe import run_probe
from raybench.pipeline.recalibrate import recalibrate
from raybench.pipeline.row import CutResults, StageResults, row_of, stopped_row
from raybench.plan.records import Unit, UnitKind
from raybench.provenance import now
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.checkpoints import StageCheckpoint
from raybench.sweep.target import amount
from raybench.sweep.trial import Trial
from raybench.tasks.open import open_task

Announce = Callable[[str], None]  # called with the name of each stage when it starts
Summary = Mapping[str, float]  # a few figures for the progress panel


def run_base(unit: Unit, context: StageContext, announce: Announce, note: Note) -> Summary:
    """Train or load the dense network, and evaluate it."""
    announce("base")
    return base.run(unit.trials[0], context, note).metrics


def run_sparsify(unit: Unit, context: StageContext, announce: Announce, note: Note) -> Summary:
    """Train the dense network with a sparsity regularizer."""
    announce("sparsify")
    done = sparsify.run(unit.trials[0], context, note)
    return {"epochs": len(done.curve)}


def run_select(unit: Unit, context: StageContext, announce: Announce, note: Note) -> Summary:
    """Select the channels to keep, in one pass for all speed-ups of the unit."""
    announce("select")
    selections = select.run(unit.trials, context, note)
    names = [amount(*trial.asked) for trial in unit.trials]
    return {name: selection.cut.speedup for name, selection in zip(names, selections, strict=True)}


def run_cell(unit: Unit, context: StageContext, announce: Announce, note: Note) -> Summary:
    """Cut, fine-tune and measure one network, and publish its row."""
    trial = unit.trials[0]
    record = _cell(trial, context, announce, note)
    patches.check("finetune")
    announce("publish")
    _publish(record, context)
    return {name: record[name] for name in ("metric_final", "metric_pruned", "metric_base", "speedup")}


RUN: Mapping[UnitKind, Callable[[Unit, StageContext, Announce, Note], Summary]] = {
    "probe": run_probe,
    "base": run_base,
    "sparsify": run_sparsify,
    "select": run_select,
    "cell": run_cell,
}


def _cell(trial: Trial, context: StageContext, announce: Announce, note: Note) -> Record:
    """The row of one cell; results that it shares with other cells are read from the stage cache."""
    started_at, clock = now(), _Clock()
    announce("surgery")
    cache.require(context, trial.base_key, trial.sparsify_key, trial.select_key)
    task = open_task(trial, context.data_roots, context.device, context.storage, context.team)
    dense, sparse, selection = base.load(trial, context), sparsify.load(trial, context), select.load(trial, context)
    network = model_of(dense.folder, trial, task, context.device)
    start = base.start_of((sparse or dense).folder, trial, task, context) if sparse or trial.prunes_first else network
    pruned = cut_network(trial, start, selection.cut, task)
    measure.check_cost(pruned.model, selection.cut, task, context.device)
    after_cut = task.evaluate(pruned.model, "test")
    recalibrated = recalibrate(trial, pruned.model, task)
    clock.lap("prune")

    announce("finetune")
    until: dict[str, Any] = {
        "metric": task.metric, "dense": dense, "sparse": sparse, "selection": selection, "pruned": pruned,
        "after_cut": after_cut, "recalibrated": recalibrated, "seconds": clock.laps, "started_at": started_at,
        "device": context.device,
    }  # fmt: skip
    try:
        training = finetune(trial, network, pruned, task, context)
    except StoppedEarly as stopped:
        clock.lap("finetune")
        patches.check("finetune")
        _publish(stopped_row(trial, CutResults(**until), stopped), context)
        raise
    note(resumed_from=training.resumed_from)
    clock.lap("finetune")

    announce("measure")
    final = task.evaluate(pruned.model, "test")
    footprint = measure.footprint(network, pruned.model, task, context)
    key = artifact.publish(context.storage, trial, pruned.model, selection.cut, task.data)
    clock.lap("measure")
    return row_of(trial, StageResults(**until, training=training, final=final, footprint=footprint, artifact=key))


def _publish(record: Record, context: StageContext) -> None:
    """Publish a cell's row; its progress isn't needed any more."""
    shared = {"device_share": context.share, "share_note": context.share_note or None}
    Store(context.storage).publish(record.replaced(**shared) if any(shared.values()) else record)
    StageCheckpoint(context.storage, record["trial_id"]).clear()


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        self.laps[name] = time.perf_counter() - self._last
        self._last = time.perf_counter()
