"""What stands above and below a ranking: the conditions of its numbers, and the cells that have none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_VERSIONS = {
    "raybench": "provenance.code_version",
    "torch": "provenance.torch",
    "torch-pruning": "provenance.torch_pruning",
}
_WHERE = ("device", "provenance.device_name", "provenance.cpu", "device_share", "exclusive", "latency_batch")
_WHY = ("stage", "error_type", "error_message", "reason", "method", "speedup_target", "seed", "traceback_path")
CONDITIONS = ("status", "schedule", "trial_id", *_VERSIONS.values(), *_WHERE, *_WHY)


@dataclass(frozen=True)
class Loss:
    """Cells that ended without a number for one reason."""

    count: int
    reason: str
    methods: tuple[str, ...]
    trial_id: str  # of one of them, for `raybench show`


def conditions(table: pa.Table) -> tuple[str, ...]:
    """Device, versions, seeds and schedules of the finished rows, one line each. `table` has the columns CONDITIONS."""
    rows = table.filter(pc.equal(table["status"], "ok"))
    versions = [f"{name} {_either(rows, column)}" for name, column in _VERSIONS.items()]
    lines = [f"device: {_device(rows)}", f"versions: {', '.join(versions)}"]
    seeds = sorted(_values(rows, "seed"))
    lines.append(f"cells: {rows.num_rows}; seeds: {_seeds(seeds)}; ± is the standard deviation over n seeds")
    schedules = sorted(_values(rows, "schedule"))
    lines.append(f"schedule: {', '.join(schedules)}{' (mixed: see each table)' if len(schedules) > 1 else ''}")
    return tuple(lines)


def losses(table: pa.Table, status: str) -> tuple[Loss, ...]:
    """Failed or skipped cells by reason, most frequent first."""
    rows = table.filter(pc.equal(table["status"], status)).select(["trial_id", *_WHY]).to_pylist()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(_reason(row), []).append(row)
    told = [
        Loss(len(same), why, tuple(sorted({r["method"] for r in same})), min(r["trial_id"] for r in same))
        for why, same in found.items()
    ]
    return tuple(sorted(told, key=lambda loss: (-loss.count, loss.reason)))


def _reason(row: dict[str, Any]) -> str:
    if row["reason"] and not row["error_type"]:
        return row["reason"]
    return f"{row['stage']}: {row['error_type']}: {(row['error_message'] or '').partition(chr(10))[0]}"


def _device(rows: pa.Table) -> str:
    """Every kind of device that the rows were computed on, and whether they had it to themselves."""
    kinds = rows.group_by(["device", "provenance.device_name", "provenance.cpu"]).aggregate([]).to_pylist()
    names = sorted({f"{k['device']} ({k['provenance.device_name'] or k['provenance.cpu']})" for k in kinds})
    batches = ", ".join(str(b) for b in sorted(_values(rows, "latency_batch")))
    exclusive = _values(rows, "exclusive")
    alone = {(True,): "timed alone", (False,): "shared, so not timed"}.get(tuple(exclusive), "partly timed alone")
    return f"{' and '.join(names)}, {alone}" + (f"; latency: median forward pass, batch {batches}" if batches else "")


def _either(rows: pa.Table, column: str) -> str:
    return " and ".join(sorted(map(str, _values(rows, column)))) or "unknown"


def _values(rows: pa.Table, column: str) -> list[Any]:
    return [value for value in pc.unique(rows[column]).to_pylist() if value is not None]


def _seeds(seeds: Iterable[int]) -> str:
    seeds = list(seeds)
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))
