"""Schema of a result row: name, type, unit and meaning of every column, and which direction is better.

Types are words, so that importing this module needs no Arrow; `arrow.py` translates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raybench.sweep.kinds import CHANNELS, WHOLE

# Raise with every change of COLUMNS. Files of a newer version are refused; columns that older files lack are null.
SCHEMA_VERSION = 7

Type = Literal["string", "int", "float", "bool", "strings", "list", "struct"]
CellStatus = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Column:
    """One column, or one field of a nested one.

    Attributes:
        name: name in Parquet, JSON and SQL.
        type: type as a word; `arrow.py` has the Arrow type.
        meaning: one line for readers.
        unit: unit of the values; empty for counts, names and shares.
        better: which direction is better; None where neither is.
        needed: statuses whose rows must have a value.
        fields: fields of a struct, or of the structs of a list.

    Example:
        >>> BY_NAME["latency_ms"].unit, BY_NAME["latency_ms"].better
        ('ms/batch', 'lower')
    """

    name: str
    type: Type
    meaning: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    needed: frozenset[str] = frozenset()
    fields: tuple[Column, ...] = field(default=(), repr=False)


EVERY, OK = frozenset({"ok", "failed", "skipped"}), frozenset({"ok"})
FAILED, SKIPPED = frozenset({"failed"}), frozenset({"skipped"})

IDENTITY = (
    Column("trial_id", "string", "hash of the resolved trial", needed=EVERY),
    Column("config_id", "string", "hash of the trial without seed and speed-up: rows to average", needed=EVERY),
    Column("status", "string", "ok, failed or skipped", needed=EVERY),
    Column("reason", "string", "why a cell was skipped or stopped, or an ok row misses its speed-up", needed=SKIPPED),
    Column("stage", "string", "stage that failed", needed=FAILED),
    Column("error_type", "string", "class of the exception", needed=FAILED),
    Column("error_message", "string", "text of the exception", needed=FAILED),
    Column("traceback_path", "string", "file of the full traceback, below the storage root"),
    Column("attempt", "int", "number of this failed attempt, from 1", needed=FAILED),
    Column("dataset", "string", "dataset", needed=EVERY),
    Column("task", "string", "classification or detection", needed=EVERY),
    Column("model", "string", "model", needed=EVERY),
    Column("kind", "string", "what the method removes: channels or tokens", needed=EVERY),
    Column("method", "string", "importance, or importance+regularizer", needed=EVERY),
    Column("importance", "string", "criterion that ranks channels, or selection that is trained", needed=EVERY),
    Column("regularizer", "string", "sparsity regularizer; null without one"),
    Column("strategy", "string", "local, global, protected-global, isomorphic, optimal, optimal-blocks", needed=EVERY),
    Column("protocol", "string", "rules of selection and evaluation: raybench or pruningbench", needed=EVERY),
    Column("recipe", "string", "name of the training recipe", needed=EVERY),
    Column("transfer", "string", "prune-then-transfer, transfer-then-prune; null: the base is of this data"),
    Column("transfer_from", "string", "dataset that the transferred weights are of, or their file's SHA-256"),
    Column("depth", "float", "asked share of the removable blocks that stays; 1: no block goes", needed=EVERY),
    Column("image_size", "int", "side of the images from the selection on; null: the dataset's own", "pixels"),
    Column("schedule", "string", "progressive, iterative or one-shot scoring", needed=EVERY),
    Column("seed", "int", "seed of everything after the base training", needed=EVERY),
    Column("base_seed", "int", "seed of the base training", needed=EVERY),
    Column("round_to", "int", "kept widths are multiples of this", needed=EVERY),
    Column("speedup_target", "float", "asked speed-up: base MACs / MACs; null where another amount was asked for", "x"),
    Column("ratio", "float", "asked share of channels to remove in one step; null where a speed-up was asked for"),
    Column("params_target", "float", "asked base params / params; null where another amount was asked for", "x"),
    Column("latency_target_ms", "float", "asked time of one image; null where another amount was asked for", "ms"),
    Column("latency_target", "float", "asked base / pruned time of one image; null where another was asked for", "x"),
)  # fmt: skip

OUTCOME = (
    Column("network", "string", "smaller dense network that stands in place of a pruned one (method small); else null"),
    Column("blocks_base", "int", "blocks that could go whole; null where none was asked to"),
    Column("blocks", "int", "blocks of them that stayed", "", "lower"),
    Column("speedup", "float", "achieved speed-up: base MACs / MACs", "x", "higher", OK),
    Column("macs_base", "int", "multiply-accumulates of the dense model", "MACs/image", "lower", OK),
    Column("macs", "int", "multiply-accumulates of the pruned model", "MACs/image", "lower", OK),
    Column("macs_tp_base", "int", "dense MACs as Torch-Pruning counts them", "MACs/image", "lower"),
    Column("macs_tp", "int", "pruned MACs as Torch-Pruning counts them", "MACs/image", "lower"),
    Column("params_base", "int", "parameters of the dense model", "", "lower", OK),
    Column("params", "int", "parameters of the pruned model", "", "lower", OK),
    Column("params_kept", "float", "params / params_base", "ratio", "lower", OK),
    Column("activations_base", "int", "peak memory of activations of the dense model, one image", "bytes", "lower"),
    Column("activations", "int", "peak memory of activations of the pruned model, one image", "bytes", "lower"),
    Column("metric_name", "string", "metric of the ranking: top1, mAP50-95", needed=OK),
    Column("metric_base", "float", "metric of the dense model, test split", "%", "higher", OK),
    Column("metric_pruned", "float", "metric after pruning, before fine-tuning, test split", "%", "higher", OK),
    Column(
        "metric_recalibrated",
        "float",
        "metric after batch norm statistics were measured anew, before fine-tuning",
        "%",
        "higher",
    ),
    Column("metric_final", "float", "metric after fine-tuning, test split", "%", "higher", OK),
    Column("delta", "float", "metric_final - metric_base", "points", "higher", OK),
    Column("metric_val", "float", "metric of the selected epoch on the split used to select it", "%", "higher"),
    Column("loss_final", "float", "test loss after fine-tuning", "", "lower"),
    Column("top5", "float", "top-5 accuracy after fine-tuning", "%", "higher"),
    Column("map50", "float", "mAP at IoU 0.5 after fine-tuning", "%", "higher"),
    Column("selected_epoch", "int", "epoch of fine-tuning whose weights were kept, from 1; 0 without fine-tuning"),
    Column("stopped_epoch", "int", "epoch of fine-tuning at which early_stop ended the cell; null: it didn't"),
    Column("stopped_below", "float", "metric that the cell needed on the selection split to go on", "%"),
    Column("train_pixels", "float", "pixels that fine-tuning saw over those of whole images; null: all whole", "ratio"),
    Column("steps", "int", "pruning steps taken"),
)

TIMINGS = (
    Column("latency_base_ms", "float", "median forward pass of the dense model", "ms/batch", "lower"),
    Column("latency_ms", "float", "median forward pass of the pruned model", "ms/batch", "lower"),
    Column(
        "latency_predicted_ms",
        "float",
        "time of one image that the table of layers predicts for the cut, with a latency target",
        "ms",
        "lower",
    ),
    Column(
        "latency_selected_ms",
        "float",
        "time of one image when the cut was selected for a latency target",
        "ms",
        "lower",
    ),
    Column("latency_batch", "int", "images in a batch of latency_base_ms and latency_ms", "images"),
    Column("latency_b32_base_ms", "float", "median forward pass of 32 images, dense model", "ms/batch", "lower"),
    Column("latency_b32_ms", "float", "median forward pass of 32 images, pruned model", "ms/batch", "lower"),
    Column("throughput_base", "float", "throughput of the dense model in batches of 32", "images/s", "higher"),
    Column("throughput", "float", "throughput of the pruned model in batches of 32", "images/s", "higher"),
    Column("batch_reason", "string", "why the timings of 32 images are null"),
    Column("step_time_s", "float", "one scoring and selection step", "s", "lower"),
    Column("reg_time_s", "float", "one sparsifying epoch; null without that stage", "s", "lower"),
    Column("memory_peak_mb", "float", "peak memory of the device in fine-tuning", "MiB", "lower"),
    Column("exclusive", "bool", "no other cell ran on the node while the timings were taken"),
    Column("timing_reason", "string", "why a timing is null"),
    Column("seconds_base", "float", "duration of the shared base stage", "s", "lower"),
    Column("seconds_sparsify", "float", "duration of the shared sparsifying stage", "s", "lower"),
    Column("seconds_select", "float", "duration of the shared selection", "s", "lower"),
    Column("seconds_prune", "float", "duration of surgery and evaluation before fine-tuning", "s", "lower"),
    Column("seconds_finetune", "float", "duration of fine-tuning", "s", "lower"),
    Column("seconds_measure", "float", "duration of final evaluation and latency measurement", "s", "lower"),
    Column("resumed_from", "int", "epochs of fine-tuning restored from a checkpoint"),
    Column("device", "string", "device that ran the cell", needed=OK),
    Column("processes", "int", "processes that trained the cell together, one a GPU; null: of an older version"),
    Column("device_share", "float", "share of the GPU that the cell had; null on a CPU", "ratio"),
    Column("share_note", "string", "why it had that share: measured, or memory had run out with less"),
    Column("precision", "string", "of fine-tuning: fp32, tf32 or bf16; null where its task has no `speed` block"),
    Column("memory_format", "string", "of fine-tuning: nchw or channels_last"),
    Column("deterministic", "bool", "whether fine-tuning used deterministic kernels only"),
    Column("graphs", "string", "on: fine-tuning took whole steps as CUDA graphs; off: it didn't"),
    Column("compile", "string", "on: torch.compile compiled the network that was fine-tuned; off: it didn't"),
    Column("speed_note", "string", "what was timed to choose them, and what fell back"),
)

ORIGIN = (
    Column("base_key", "string", "key of the shared base stage"),
    Column("sparsify_key", "string", "key of the shared sparsifying stage"),
    Column("select_key", "string", "key of the shared selection"),
    Column("base_sha256", "string", "content hash of the dense weights"),
    Column("artifact", "string", "folder of the pruned model, below the storage root"),
    Column("row_sha256", "string", "checksum of the row's other columns; null in rows of raybench 0.1"),
)

CURVE = (
    Column("stage", "string", "base, sparsify or finetune"),
    Column("epoch", "int", "epoch, from 1"),
    Column("lr", "float", "learning rate at the epoch's end"),
    Column("train_loss", "float", "mean training loss of the epoch"),
    Column("metric", "float", "metric on the selection split", "%", "higher"),
)

LAYERS = (
    Column("layer", "string", "qualified name of the module"),
    Column("out_before", "int", "output channels of the dense model"),
    Column("out_after", "int", "output channels kept"),
    Column("in_before", "int", "input channels of the dense model"),
    Column("in_after", "int", "input channels kept"),
)

PROVENANCE = (
    Column("code_version", "string", "version of raybench"),
    Column("commit", "string", "git commit of the code; null outside a checkout"),
    Column("dirty", "bool", "the checkout had uncommitted changes"),
    Column("python", "string", "version of Python"),
    Column("torch", "string", "version of torch"),
    Column("torchvision", "string", "version of torchvision"),
    Column("torch_pruning", "string", "version of torch-pruning"),
    Column("timm", "string", "version of timm"),
    Column("ultralytics", "string", "version of ultralytics"),
    Column("ray", "string", "version of ray"),
    Column("cuda", "string", "version of CUDA that torch was built with"),
    Column("driver", "string", "version of the device's driver"),
    Column("device_name", "string", "name of the device"),
    Column("host", "string", "name of the machine"),
    Column("cpu", "string", "processor of the machine"),
    Column("cpu_capability", "string", "instruction set that torch's own kernels used: DEFAULT, AVX2, AVX512"),
    Column("cores", "int", "cores of the machine that this process may use"),
    Column("threads", "int", "threads that torch used"),
    Column("started_at", "string", "start of the cell, UTC, ISO 8601"),
    Column("finished_at", "string", "end of the cell, UTC, ISO 8601"),
)

# Wide columns come last: a ranking reads none of them, `show` reads them for one row.
WIDE = (
    Column("provenance", "struct", "code, libraries and machine", needed=OK, fields=PROVENANCE),
    Column("curve", "list", "training curves, one entry an epoch", needed=OK, fields=CURVE),
    Column("layers", "list", "widths of every layer before and after", needed=OK, fields=LAYERS),
    Column("kept", "string", "JSON object: group -> kept unit indices"),
    Column("blocks_removed", "string", "JSON list: names of the blocks that went whole; null where none was asked to"),
    Column("tokens", "string", "JSON list: tokens that attention and MLP of each block see; null for channels"),
    Column("trial", "string", "canonical JSON of the resolved trial", needed=EVERY),
)

COLUMNS: tuple[Column, ...] = IDENTITY + OUTCOME + TIMINGS + ORIGIN + WIDE
BY_NAME: dict[str, Column] = {column.name: column for column in COLUMNS}
DEFAULTS: Mapping[str, Any] = {
    "kind": CHANNELS,
    "depth": WHOLE,
}  # what older rows, which lack the column, are read as; no part of a row's checksum
