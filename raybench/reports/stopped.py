"""Methods of which `early_stop` ended some seeds: the seeds that trained on are the better ones, so none is ranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raybench.results.constants import array_of, constant
from raybench.sweep.target import ASKED

AVERAGED = ("config_id", "recipe", *ASKED)  # rows that are equal in these are averaged over seeds
COLUMNS = (*AVERAGED, "status", "seed", "stopped_epoch")


def finished(table: pa.Table) -> pa.Table:
    """The rows that are ok, without those of a method and speed-up of which another seed was stopped.

    Args:
        table: rows with the columns COLUMNS.
    """
    ok = table.filter(pc.equal(table["status"], constant("ok")))
    stopped = {_key(row) for row in _stopped(table)}
    if not stopped:
        return ok
    rows = ok.select(list(AVERAGED)).to_pylist()
    return ok.filter(array_of(bool, [_key(row) not in stopped for row in rows]))


def left_out(table: pa.Table) -> list[dict[str, Any]]:
    """One row for each method and speed-up with stopped seeds; `stopped` says which, and after which epoch."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(_stopped(table), key=lambda row: row["seed"]):
        found.setdefault(_key(row), []).append(row)
    each = {
        key: ", ".join(f"seed {row['seed']} at epoch {row['stopped_epoch']}" for row in found[key]) for key in found
    }
    return [{**rows[0], "stopped": f"stopped: {each[key]}"} for key, rows in found.items()]


def _stopped(table: pa.Table) -> list[dict[str, Any]]:
    if table["stopped_epoch"].null_count == table.num_rows:
        return []
    rows: list[dict[str, Any]] = table.filter(pc.is_valid(table["stopped_epoch"])).to_pylist()
    return rows


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in AVERAGED)
