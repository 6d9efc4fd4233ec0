"""From what the stages told to the one row of a cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raybench.pipeline.base import Base
from raybench.pipeline.finetune import Pruned
from raybench.pipeline.measure import Latency
from raybench.pipeline.select import Selection
from raybench.pipeline.sparsify import Sparsified
from raybench.provenance import provenance
from raybench.results.schema import Record
from raybench.spec.trial import Trial
from raybench.tasks.protocol import Training

_EXTRA_METRICS = {"top5": "top5", "mAP50": "map50", "loss": "loss_final"}  # metric of a task -> column


@dataclass(frozen=True)
class Parts:
    """Everything that the stages of one cell told. Metrics are on the test split, in percent."""

    metric: str
    dense: Base
    sparse: Sparsified | None
    selection: Selection
    pruned: Pruned
    after_pruning: Mapping[str, float]
    training: Training
    final: Mapping[str, float]
    latency: Latency
    seconds: Mapping[str, float]  # of: prune, finetune, measure
    started_at: str
    artifact: str
    device: torch.device


def row_of(trial: Trial, parts: Parts) -> Record:
    """The finished row of `trial`."""
    cut, latency, training = parts.selection.cut, parts.latency, parts.training
    reg_time_s = parts.sparse.reg_time_s if parts.sparse else None
    return Record.of_trial(
        trial,
        reason=cut.reason,
        speedup=cut.speedup,
        macs_base=cut.macs_base,
        macs=cut.macs,
        macs_tp_base=cut.macs_tp_base,
        macs_tp=cut.macs_tp,
        params_base=cut.params_base,
        params=cut.params,
        metric_name=parts.metric,
        metric_base=parts.dense.metrics[parts.metric],
        metric_pruned=parts.after_pruning[parts.metric],
        metric_final=parts.final[parts.metric],
        metric_val=_selected(training, parts.metric),
        **{column: parts.final[name] for name, column in _EXTRA_METRICS.items() if name in parts.final},
        selected_epoch=training.selected_epoch,
        steps=cut.steps,
        latency_base_ms=latency.base_ms,
        latency_ms=latency.pruned_ms,
        latency_batch=1,
        step_time_s=parts.selection.step_time_s,
        reg_time_s=reg_time_s,
        exclusive=latency.base_ms is not None,
        timing_reason=_timing_reason(parts),
        seconds_base=parts.dense.seconds,
        seconds_sparsify=parts.sparse.seconds if parts.sparse else None,
        seconds_select=parts.selection.seconds,
        **{f"seconds_{name}": value for name, value in parts.seconds.items()},
        resumed_from=training.resumed_from,
        device=parts.device.type,
        base_sha256=parts.dense.sha256,
        artifact=parts.artifact,
        provenance=_provenance(parts),
        curve=list(_curves(parts)),
        layers=[
            {"layer": name, "out_before": b[0], "out_after": a[0], "in_before": b[1], "in_after": a[1]}
            for name, (b, a) in parts.pruned.widths.items()
        ],
        kept=dict(cut.kept),
    )


def _timing_reason(parts: Parts) -> str | None:
    reasons = (parts.latency.reason, parts.selection.timing_reason, parts.sparse and parts.sparse.timing_reason)
    return "; ".join(sorted({reason for reason in reasons if reason})) or None


def _selected(training: Training, metric: str) -> float | None:
    """Metric of the kept epoch on the split it was selected by; None without fine-tuning."""
    return next((e.get(metric) for e in training.curve if e["epoch"] == training.selected_epoch), None)


def _curves(parts: Parts) -> Iterable[dict[str, Any]]:
    """The training curves of base, sparsify and finetune behind one another."""
    stages = {"base": parts.dense.curve, "sparsify": parts.sparse.curve if parts.sparse else ()}
    for stage, curve in (stages | {"finetune": parts.training.curve}).items():
        for epoch in curve:
            yield {
                "stage": stage,
                "epoch": int(epoch["epoch"]),
                "lr": epoch["lr"],
                "train_loss": epoch["train_loss"],
                "metric": epoch.get(parts.metric),
            }


def _provenance(parts: Parts) -> Any:
    cuda = parts.device.type == "cuda"
    return provenance(
        started_at=parts.started_at,
        device_name=torch.cuda.get_device_name(parts.device) if cuda else None,
        cuda=torch.version.cuda if cuda else None,
        threads=torch.get_num_threads(),
    )
