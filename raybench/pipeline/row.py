"""Turns the results of all stages into the result row of a cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raybench.pipeline.asked import missed
from raybench.pipeline.base import Base
from raybench.pipeline.cut import Pruned
from raybench.pipeline.early_stop import StoppedEarly
from raybench.pipeline.measure import BATCH, Footprint
from raybench.pipeline.select import Selection
from raybench.pipeline.small import member_of
from raybench.pipeline.sparsify import Sparsified
from raybench.provenance import provenance
from raybench.results.schema import Record
from raybench.selection.records import Cut
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Training

_EXTRA_METRICS = {"top5": "top5", "mAP50": "map50", "loss": "loss_final"}  # name in a task's metrics -> column


@dataclass(frozen=True)
class CutResults:
    """Results of the stages of one cell up to its fine-tuning. Metrics are on the test split, in percent."""

    metric: str
    dense: Base
    sparse: Sparsified | None
    selection: Selection
    pruned: Pruned
    after_cut: Mapping[str, float]
    recalibrated: Mapping[str, float] | None  # after the statistics of batch norms were measured anew
    seconds: Mapping[str, float]  # of prune, finetune, measure
    started_at: str
    device: torch.device


@dataclass(frozen=True)
class StageResults(CutResults):
    """Results of all stages of one cell."""

    training: Training
    final: Mapping[str, float]
    footprint: Footprint
    artifact: str  # key in the storage


def row_of(trial: Trial, stages: StageResults) -> Record:
    """The finished row of `trial`."""
    cut, footprint, training = stages.selection.cut, stages.footprint, stages.training
    final = stages.final
    extra: dict[str, Any] = {column: final[name] for name, column in _EXTRA_METRICS.items() if name in final}
    return Record.of_trial(
        trial,
        reason="; ".join(filter(None, (cut.reason, _latency_missed(trial, stages)))) or None,
        **_until_finetune(stages),
        **extra,
        metric_final=final[stages.metric],
        metric_val=_selected(training, stages.metric),
        selected_epoch=training.selected_epoch,
        activations_base=footprint.activations_base,
        activations=footprint.activations,
        latency_base_ms=footprint.base_ms,
        latency_ms=footprint.pruned_ms,
        latency_batch=1,
        latency_b32_base_ms=footprint.many_base_ms,
        latency_b32_ms=footprint.many_pruned_ms,
        throughput_base=_throughput(footprint.many_base_ms),
        throughput=_throughput(footprint.many_pruned_ms),
        batch_reason=footprint.many_reason,
        exclusive=footprint.base_ms is not None,
        timing_reason=_timing_reason(stages),
        resumed_from=training.resumed_from,
        **training.computing,
        artifact=stages.artifact,
        curve=list(_curves(stages, training.curve)),
    )


def _latency_missed(trial: Trial, stages: StageResults) -> str | None:
    footprint, cut = stages.footprint, stages.selection.cut
    return missed(trial, footprint.base_ms, footprint.pruned_ms, cut.selected_ms, footprint.reason)


def stopped_row(trial: Trial, stages: CutResults, stopped: StoppedEarly) -> Record:
    """The row of a cell that ended at a rung: what was measured before, and no final metric."""
    return Record.of_trial(
        trial,
        status="skipped",
        reason=str(stopped),
        **_until_finetune(stages),
        metric_val=stopped.decision.value,
        stopped_epoch=stopped.epoch,
        stopped_below=stopped.decision.bar,
        curve=list(_curves(stages, stopped.curve)),
    )


def _until_finetune(stages: CutResults) -> dict[str, Any]:
    """The columns that are known before fine-tuning."""
    cut, sparse = stages.selection.cut, stages.sparse
    return {
        "speedup": cut.speedup,
        "macs_base": cut.macs_base,
        "macs": cut.macs,
        "macs_tp_base": cut.macs_tp_base,
        "macs_tp": cut.macs_tp,
        "params_base": cut.params_base,
        "params": cut.params,
        "metric_name": stages.metric,
        "metric_base": stages.dense.metrics[stages.metric],
        "metric_pruned": stages.after_cut[stages.metric],
        "metric_recalibrated": stages.recalibrated and stages.recalibrated[stages.metric],
        "network": cut.network and str(member_of(cut)),
        **blocks_of(cut),
        "steps": cut.steps,
        "latency_predicted_ms": cut.predicted_ms,
        "latency_selected_ms": cut.selected_ms,
        "step_time_s": stages.selection.step_time_s,
        "reg_time_s": sparse.reg_time_s if sparse else None,
        "seconds_base": stages.dense.seconds,
        "seconds_sparsify": sparse.seconds if sparse else None,
        "seconds_select": stages.selection.seconds,
        **{f"seconds_{name}": value for name, value in stages.seconds.items()},
        "device": stages.device.type,
        "base_sha256": stages.dense.sha256,
        "provenance": _provenance(stages),
        "layers": [
            {"layer": name, "out_before": b[0], "out_after": a[0], "in_before": b[1], "in_after": a[1]}
            for name, (b, a) in stages.pruned.widths.items()
        ],
        "kept": dict(cut.kept),
        "tokens": stages.pruned.tokens and json.dumps(stages.pruned.tokens, separators=(",", ":")),
    }


def blocks_of(cut: Cut) -> dict[str, Any]:
    """The columns about blocks; none for a cut that was asked to leave all of them."""
    if not cut.blocks_base:
        return {}
    stay = cut.blocks_base - len(cut.blocks)
    return {"blocks_base": cut.blocks_base, "blocks": stay, "blocks_removed": json.dumps(cut.blocks)}


def _throughput(batch_ms: float | None) -> float | None:
    """Images per second from the milliseconds of a batch."""
    return None if batch_ms is None else BATCH * 1e3 / batch_ms


def _timing_reason(stages: StageResults) -> str | None:
    """Why timings are missing; None if none is."""
    reasons = (stages.footprint.reason, stages.selection.timing_reason, stages.sparse and stages.sparse.timing_reason)
    return "; ".join(sorted({reason for reason in reasons if reason})) or None


def _selected(training: Training, metric: str) -> float | None:
    """Metric of the kept epoch on the split that selected it; None without fine-tuning."""
    return next((e.get(metric) for e in training.curve if e["epoch"] == training.selected_epoch), None)


def _curves(stages: CutResults, finetuned: Sequence[Mapping[str, float]]) -> Iterable[dict[str, Any]]:
    """The epochs of base, sparsify and finetune, one after another."""
    sparse = stages.sparse.curve if stages.sparse else ()
    curves = {"base": stages.dense.curve, "sparsify": sparse, "finetune": finetuned}
    for stage, curve in curves.items():
        for epoch in curve:
            yield {
                "stage": stage,
                "epoch": int(epoch["epoch"]),
                "lr": epoch["lr"],
                "train_loss": epoch["train_loss"],
                "metric": epoch.get(stages.metric),
            }


def _provenance(stages: CutResults) -> Any:
    cuda = stages.device.type == "cuda"
    return provenance(
        started_at=stages.started_at,
        device_name=torch.cuda.get_device_name(stages.device) if cuda else None,
        cuda=torch.version.cuda if cuda else None,
        threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )
