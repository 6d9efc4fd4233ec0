"""A store of 100,800 compacted cells with real curves and widths: `python -m tests.benchmarks.results_100k DIR`."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pyarrow as pa

from raybench.results.arrow import arrow_schema, to_table
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import row, trial

CRITERIA = (
    "random", "magnitude-l1", "magnitude-l2", "lamp", "fpgm", "bn-scale", "thinet", "cp", "hrank", "taylor", "obd-c",
)  # fmt: skip
METHODS = (*((c, None) for c in CRITERIA), *(("magnitude-l2", r) for r in ("group-lasso", "group-norm", "growing-reg")))
MODELS = tuple(f"model-{i}" for i in range(15))
DATASETS = ("cifar10", "cifar100", "imagenet", "coco")
STRATEGIES = ("local", "global", "protected-global", "isomorphic")
SPEEDUPS = (2.0, 4.0, 8.0)
SEEDS, EPOCHS, LAYERS = 10, 60, 30  # 14 x 15 x 4 x 4 x 3 x 10 = 100,800 cells


def fill(store: Store, models: int = len(MODELS)) -> int:
    """Write a store of finished cells, 6,720 a model: the number of rows."""
    axes = itertools.product(METHODS, MODELS[:models], DATASETS, STRATEGIES, SPEEDUPS)
    cells = [
        row(trial(*method, model=model, dataset=dataset, strategy=strategy, speedup=speedup))
        for method, model, dataset, strategy, speedup in axes
    ]
    rows, rng = len(cells) * SEEDS, np.random.default_rng(0)
    table = to_table(cells).take(np.repeat(np.arange(len(cells)), SEEDS))
    final = 90 + rng.normal(0, 2, rows)
    fresh = {
        "trial_id": pa.array([f"{i:016x}" for i in rng.permutation(rows)]),
        "seed": pa.array(np.tile(np.arange(SEEDS), len(cells))),
        "metric_final": pa.array(final),
        "delta": pa.array(final - 98.0),
        "latency_ms": pa.array(rng.uniform(1, 2, rows)),
        "curve": _curves(rng, rows),
        "layers": _layers(rng, rows),
        "row_sha256": pa.nulls(rows, pa.string()),  # the rows aren't read one by one
    }
    store.add(pa.table([fresh.get(name, table[name]) for name in table.column_names], schema=arrow_schema()))
    return rows


def _curves(rng: np.random.Generator, rows: int) -> pa.Array:
    total = rows * EPOCHS
    epoch = np.tile(np.arange(1, EPOCHS + 1), rows)
    fields = {
        "stage": pa.DictionaryArray.from_arrays(pa.array(np.zeros(total, "int8")), ["finetune"]).cast(pa.string()),
        "epoch": pa.array(epoch),
        "lr": pa.array(0.1 * np.cos(epoch / EPOCHS)),
        "train_loss": pa.array(2.0 / epoch + rng.uniform(0, 0.1, total).round(4)),
        "metric": pa.array((95 - 40 / epoch + rng.uniform(0, 1, total)).round(2)),
    }
    return _lists(fields, rows, EPOCHS)


def _layers(rng: np.random.Generator, rows: int) -> pa.Array:
    total = rows * LAYERS
    names = pa.array([f"layers.{i}.conv" for i in range(LAYERS)])
    before = np.tile(16 * 2 ** (np.arange(LAYERS) // 10), rows)
    fields = {
        "layer": names.take(pa.array(np.tile(np.arange(LAYERS), rows))),
        "out_before": pa.array(before),
        "out_after": pa.array((before * rng.uniform(0.1, 1, total)).astype("int64")),
        "in_before": pa.array(before),
        "in_after": pa.array((before * rng.uniform(0.1, 1, total)).astype("int64")),
    }
    return _lists(fields, rows, LAYERS)


def _lists(fields: dict[str, pa.Array], rows: int, each: int) -> pa.Array:
    offsets = pa.array(np.arange(0, rows * each + 1, each), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(list(fields.values()), list(fields)))


if __name__ == "__main__":
    print(fill(Store(open_storage(sys.argv[1]))), "rows")
