"""Finished cells as one pandas frame with labelled methods, ours or published, and grouped for the statistics."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa

from raybench.reports.labels import unique_labels
from raybench.reports.leaderboard import Trials
from raybench.reports.published import published
from raybench.reports.statistics.samples import Cells, Samples, samples
from raybench.reports.stopped import finished
from raybench.sweep.target import ASKED

COLUMNS = (
    "trial_id", "config_id", "status", "dataset", "task", "model", "method", "importance", "regularizer", "strategy",
    "protocol", "recipe", "schedule", "seed", "base_seed", *ASKED, "speedup", "params_kept",
    "metric_name", "metric_base", "metric_pruned", "metric_final", "delta", "latency_base_ms", "latency_ms",
    "step_time_s", "reg_time_s", "stopped_epoch",
)  # fmt: skip
BOARD = ("dataset", "model", "protocol", "recipe", "strategy")
SCOPE = ("protocol", "strategy", "speedup_target")


def frame(table: pa.Table, trials: Trials) -> pd.DataFrame:
    """Finished rows with a column `label`: the method, with the settings that differ where several share its name.

    Args:
        table: rows with the columns COLUMNS.
        trials: trial ids -> resolved trials by id.
    """
    rows = finished(table).select(list(COLUMNS)).to_pandas().drop(columns=["status", "stopped_epoch"])
    for name in ("regularizer", *ASKED):
        rows[name] = rows[name].astype(object if name == "regularizer" else float)
    rows["regularizer"] = rows["regularizer"].where(rows["regularizer"].notna(), None)
    labels: dict[tuple, str] = {}
    configs = rows.drop_duplicates([*BOARD, "config_id"])
    for board, same in configs.groupby(list(BOARD), dropna=False, sort=False):
        found = unique_labels(same[["config_id", "method", "trial_id"]].to_dict("records"), trials, ("method",))
        labels |= {(*board, config): label for config, label in found.items()}
    keys = zip(*(rows[name] for name in (*BOARD, "config_id")), strict=True)
    return rows.assign(label=pd.Series([labels[key] for key in keys], index=rows.index, dtype=object))


def published_frame() -> pd.DataFrame:
    """The published rows of PruningBench with the columns of `frame`; figures that they lack are NaN."""
    rows = [
        {
            **dict.fromkeys(COLUMNS),
            **{name: value for name, value in row.items() if name in COLUMNS},
            "recipe": "published",
            "seed": 0,
            "base_seed": 0,
            "speedup": row["speedup_target"],
            "params_kept": row["params_pct"] / 100,
            "delta": row["metric_final"] - row["metric_base"],
            "label": row["method"],
        }
        for row in published()
    ]
    found = pd.DataFrame(rows).drop(columns=["status", "stopped_epoch"])
    numeric = (*ASKED[1:], "metric_pruned", "latency_base_ms", "latency_ms", "step_time_s", "reg_time_s")
    return found.astype(dict.fromkeys(numeric, float))


def scopes(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str, float], Samples]]:
    """(protocol, strategy, asked speed-up) with the samples of its datasets and models, in this order."""
    for key, same in rows[rows["speedup_target"].notna()].groupby(list(SCOPE), sort=True):
        yield key, samples(cells_of(same))


def average_scopes(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], Samples]]:
    """(protocol, strategy) with samples averaged over speed-ups; seeds that lack one of their model are left out."""
    asked = rows[rows["speedup_target"].notna()]
    for key, same in asked.groupby(["protocol", "strategy"], sort=True):
        group = [*BOARD, "label", "seed", "base_seed"]
        means = same.groupby(group).agg(metric_final=("metric_final", "mean"), n=("speedup_target", "nunique"))
        wanted = same.groupby(list(BOARD))["speedup_target"].nunique().rename("wanted")
        whole = means.reset_index().merge(wanted.reset_index(), on=list(BOARD))
        yield key, samples(cells_of(whole[whole["n"] == whole["wanted"]]))


def cells_of(rows: pd.DataFrame) -> Cells:
    """Metrics by dataset and model, method and seed; a model with several recipes is one block for each."""
    several = rows.groupby(["dataset", "model"])["recipe"].nunique()
    found: Cells = {}
    names = ("dataset", "model", "recipe", "label", "seed", "base_seed", "metric_final")
    for dataset, model, recipe, label, seed, base_seed, metric in zip(*(rows[n] for n in names), strict=True):
        name = f"{model} ({recipe})" if several[(dataset, model)] > 1 else model
        found.setdefault((dataset, name), {}).setdefault(label, {})[(int(seed), int(base_seed))] = float(metric)
    return found
