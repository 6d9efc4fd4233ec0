"""Aggregates rows of cells into one score per method: mean and spread over seeds. In Arrow, for 100,000 rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# Equal in all rows of one configuration.
SAME = (
    "dataset", "model", "task", "method", "importance", "regularizer", "strategy", "protocol", "schedule",
    "metric_name",
)  # fmt: skip
MEANS = (
    "metric_base", "metric_pruned", "metric_final", "delta", "top5", "params", "params_base", "params_kept", "macs",
    "macs_base", "speedup", "latency_base_ms", "latency_ms", "step_time_s", "reg_time_s", "off_target",
)  # fmt: skip
NOTES = ("reason", "timing_reason")
SCORED = (
    "trial_id",
    "status",
    "config_id",
    "recipe",
    "seed",
    "base_seed",
    "speedup_target",
    "ratio",
    *SAME,
    *MEANS[:-1],
    *NOTES,
)

_SPREAD = pc.VarianceOptions(ddof=1)  # sample standard deviation: null for one seed
_SCORE = ("config_id", "recipe", "speedup_target", "ratio")
_SEED = ("config_id", "recipe", "seed", "base_seed")


def scores(table: pa.Table) -> list[dict[str, Any]]:
    """One dict per configuration, recipe name and speed-up or ratio: means over seeds, `n`, and `spread`.

    `spread` is None for one seed. `table` has the columns SCORED; rows that are not ok are ignored.
    """
    return _over_seeds(_finished(table), _SCORE)


def averages(table: pa.Table) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(scores over all speed-ups, configurations left out). Only seeds with every speed-up of their board are used.

    A board here is dataset, model, protocol, recipe and strategy. A configuration without a complete seed is left
    out: a dict with `method`, the board's columns and `missing`, the absent speed-ups. Rows with a ratio are ignored.
    """
    asked = table.filter(pc.is_valid(table["speedup_target"]))
    per_seed = _aggregated(_finished(asked), _SEED, [("speedup_target", "distinct")])
    found = per_seed.to_pylist()
    whole: dict[tuple, set[float]] = {}
    for row in found:
        whole.setdefault(board_of(row), set()).update(row["speedup_target_distinct"])
    complete = [len(row["speedup_target_distinct"]) == len(whole[board_of(row)]) for row in found]
    done = _over_seeds(per_seed.filter(pa.array(complete, pa.bool_())), ("config_id", "recipe"))
    ranked = {(row["config_id"], row["recipe"]) for row in done}
    absent: dict[tuple, dict[str, Any]] = {}
    for row in found:
        key = (row["config_id"], row["recipe"])
        if key not in ranked:
            missing = sorted(whole[board_of(row)] - set(row["speedup_target_distinct"]))
            absent.setdefault(key, {**row, "missing": missing})
    return done, list(absent.values())


def board_of(row: Mapping[str, Any]) -> tuple:
    """Columns that are equal for all methods of one ranking, except the speed-up."""
    return tuple(row[name] for name in ("dataset", "model", "protocol", "recipe", "strategy"))


def _finished(table: pa.Table) -> pa.Table:
    rows = table.filter(pc.equal(table["status"], "ok"))
    off = pc.abs(pc.subtract(pc.divide(rows["speedup"], rows["speedup_target"]), 1.0))
    return rows.append_column("off_target", off)


def _over_seeds(rows: pa.Table, keys: Sequence[str]) -> list[dict[str, Any]]:
    own = [("metric_final", "stddev", _SPREAD), ("seed", "count"), ("seed", "distinct")]
    found = _aggregated(rows, keys, own).to_pylist()
    for row in found:
        row |= {
            "spread": row["metric_final_stddev"],
            "n": row["seed_count"],
            "seeds": tuple(sorted(row["seed_distinct"])),
        }
    return found


def _aggregated(rows: pa.Table, keys: Sequence[str], own: Sequence[tuple]) -> pa.Table:
    """One row per value of `keys`. Columns keep their names; those of the aggregations `own` have Arrow's names."""
    plain = (
        [(n, "one") for n in SAME] + [(n, "mean") for n in MEANS] + [(n, "max") for n in NOTES] + [("trial_id", "min")]
    )
    grouped = rows.group_by(list(keys), use_threads=False).aggregate([*plain, *own])
    names = {f"{name}_{how}": name for name, how in plain}
    return grouped.rename_columns([names.get(name, name) for name in grouped.column_names])
