"""Aggregates rows of cells into one score per method: mean and spread over seeds. In Arrow, for 100,000 rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raybench.reports.grouping import Aggregation, Row, grouped
from raybench.reports.stopped import finished
from raybench.results.constants import constant
from raybench.sweep.target import ASKED

# Equal in all rows of one configuration.
SAME = (
    "dataset", "model", "task", "kind", "method", "importance", "regularizer", "strategy", "protocol", "schedule",
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
    *ASKED,
    "stopped_epoch",
    *SAME,
    *MEANS[:-1],
    *NOTES,
)

_SCORE = ("config_id", "recipe", *ASKED)
_SEED = ("config_id", "recipe", "seed", "base_seed")


def scores(table: pa.Table) -> list[dict[str, Any]]:
    """One dict per configuration, recipe name and asked amount: means over seeds, `n`, and `spread`.

    `spread` is None for one seed. `table` has the columns SCORED; rows that are not ok are ignored.
    """
    return _over_seeds(_finished(table), _SCORE)


def averages(table: pa.Table) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(scores over all speed-ups, configurations left out). Only seeds with every speed-up of their board are used.

    A board here is dataset, model, protocol, recipe and strategy. A configuration without a complete seed is left out:
    a dict with `method`, the board's columns and `missing`, the absent speed-ups. Rows with other amounts are ignored.
    """
    asked = table.filter(pc.is_valid(table["speedup_target"]))
    found = _aggregated(_finished(asked), _SEED, [("speedup_target", "distinct")])
    whole: dict[tuple, set[float]] = {}
    for row in found:
        whole.setdefault(board_of(row), set()).update(row["speedup_target_distinct"])
    complete = [row for row in found if len(row["speedup_target_distinct"]) == len(whole[board_of(row)])]
    done = _over_seeds(complete, ("config_id", "recipe"))
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
    rows = finished(table)
    off = pc.abs(pc.subtract(pc.divide(rows["speedup"], rows["speedup_target"]), constant(1.0)))
    return rows.append_column("off_target", off)


def _over_seeds(rows: pa.Table | Sequence[Row], keys: Sequence[str]) -> list[dict[str, Any]]:
    found = _aggregated(rows, keys, [("metric_final", "stddev"), ("seed", "count"), ("seed", "distinct")])
    for row in found:
        row |= {
            "spread": row["metric_final_stddev"],
            "n": row["seed_count"],
            "seeds": tuple(sorted(row["seed_distinct"])),
        }
    return found


def _aggregated(
    rows: pa.Table | Sequence[Row], keys: Sequence[str], own: Sequence[Aggregation]
) -> list[dict[str, Any]]:
    """One row per value of `keys`. Columns keep their names; those of `own` have the aggregation behind theirs."""
    plain = (
        [(n, "one") for n in SAME] + [(n, "mean") for n in MEANS] + [(n, "max") for n in NOTES] + [("trial_id", "min")]
    )
    names = {f"{name}_{how}": name for name, how in plain}
    found = grouped(rows, keys, [*plain, *own])
    return [{names.get(name, name): value for name, value in row.items()} for row in found]
