"""Conditions of a ranking (devices, versions, seeds, schedules), and its failed and skipped cells by reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raybench import registry
from raybench.catalogue import TRAINING, evidence_kinds, needs_images
from raybench.errors import failure
from raybench.reports.grouping import grouped
from raybench.results.constants import constant
from raybench.sweep.target import ASKED

_VERSIONS = {
    "raybench": "provenance.code_version",
    "torch": "provenance.torch",
    "torch-pruning": "provenance.torch_pruning",
}
_WHERE = ("device", "provenance.device_name", "provenance.cpu", "device_share", "exclusive", "latency_batch")
_WHY = ("stage", "error_type", "error_message", "reason", "method", "speedup_target", "seed", "traceback_path")
CONDITIONS = ("status", "schedule", "trial_id", "base_sha256", *_VERSIONS.values(), *_WHERE, *_WHY)
_AVERAGED = ("config_id", "recipe", *ASKED)  # rows that are equal in these are averaged over seeds


@dataclass(frozen=True)
class MissingCells:
    """Cells without a result, for one reason."""

    count: int
    reason: str
    methods: tuple[str, ...]
    trial_id: str  # of one of them, for `raybench show`


def conditions(table: pa.Table) -> tuple[str, ...]:
    """Device, versions, seeds and schedules of the finished rows, one line each.

    `table` has the columns CONDITIONS and those of the scores.
    """
    rows = table.filter(pc.equal(table["status"], constant("ok")))
    versions = [f"{name} {_either(rows, column)}" for name, column in _VERSIONS.items()]
    lines = [f"device: {_device(rows)}", f"versions: {', '.join(versions)}"]
    seeds = sorted(_values(rows, "seed"))
    lines.append(f"cells: {rows.num_rows}; seeds: {_seeds(seeds)}; ± is the standard deviation over n seeds{_of(rows)}")
    schedules = sorted(_values(rows, "schedule"))
    lines.append(f"schedule: {', '.join(schedules)}{' (mixed: see each table)' if len(schedules) > 1 else ''}")
    return tuple(lines)


def missing_cells(table: pa.Table, status: str) -> tuple[MissingCells, ...]:
    """Failed or skipped cells by reason, most frequent first."""
    rows = table.filter(pc.equal(table["status"], constant(status))).select(["trial_id", *_WHY]).to_pylist()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(_reason(row), []).append(row)
    cells = [
        MissingCells(len(same), why, tuple(sorted({r["method"] for r in same})), min(r["trial_id"] for r in same))
        for why, same in found.items()
    ]
    return tuple(sorted(cells, key=lambda missing: (-missing.count, missing.reason)))


def _reason(row: dict[str, Any]) -> str:
    if row["reason"] and not row["error_type"]:
        return row["reason"]
    return f"{row['stage']}: {failure(row['error_type'], (row['error_message'] or '').partition(chr(10))[0])}"


def _of(rows: pa.Table) -> str:
    """What the ± is of: of the stages after the dense base where all seeds share it, else of the whole."""
    counts = [("seed", "count_distinct"), ("base_sha256", "count_distinct")]
    same = [(name, "one") for name in ("dataset", "model", "importance", "regularizer")]
    found = grouped(rows, _AVERAGED, [*same, *counts])
    several = [one for one in found if one["seed_count_distinct"] > 1 and one["base_sha256_count_distinct"]]
    own = [one for one in several if one["base_sha256_count_distinct"] > 1]
    shared = [one for one in several if one["base_sha256_count_distinct"] == 1]
    if not several:
        return ""
    if not own:
        return f", of {_stages(shared)}: the seeds share their dense base"
    whole = all(one["base_sha256_count_distinct"] == one["seed_count_distinct"] for one in own)
    bases = "every seed has its own base" if whole else "the seeds have several bases"
    if not shared:
        return f", of the whole: {bases}"
    mixed = f"of {_stages(shared)} where the seeds share their dense base ({_models(shared)})"
    return f", {mixed}, of the whole where {bases} ({_models(own)})"


def _stages(averaged: Sequence[Mapping[str, Any]]) -> str:
    """The stages that draw from the seed, besides the base."""
    known = registry.CHOICE.entries()
    methods = [known[name] for name in {one["importance_one"] for one in averaged} if name in known]
    facts = [method.facts for method in methods if method.kind != registry.token.kind]  # which draw in fine-tuning
    needs = {kind for fact in facts for kind in evidence_kinds(fact.get("needs", "weights"))}
    drawn = ["sparsifying"] if any(one["regularizer_one"] for one in averaged) or TRAINING in needs else []
    drawn += ["random scores"] if "nothing" in needs else []
    drawn += ["calibration images"] if needs_images(tuple(needs)) else []
    return f"{', '.join(drawn)} and fine-tuning" if drawn else "fine-tuning alone"


def _models(averaged: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({f"{one['model_one']} on {one['dataset_one']}" for one in averaged}))


def _device(rows: pa.Table) -> str:
    """The devices that computed the rows, and whether their timings were taken with no other cell running."""
    kinds = grouped(rows, ["device", "provenance.device_name", "provenance.cpu"], [])
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
