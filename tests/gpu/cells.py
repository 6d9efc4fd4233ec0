"""The lines of the check that run whole cells: those of quickstart.yaml, without ray."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from raybench.execution.worker import Assignment, execute
from raybench.plan.plan import plan
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from tests.gpu.card import Line

QUICKSTART = Path(__file__).parents[2] / "sweeps" / "quickstart.yaml"
SMALL = "models: cifar-resnet20\nmethods: magnitude-l1\nspeedups: 2\nseeds: 0\ninclude: []\n"
FAST = "{precision: bf16, memory_format: auto, deterministic: false, graphs: auto}"


def one_cell(device: torch.device, quick: bool) -> Iterator[Line]:
    """One cell with the default speed, and one with all options."""
    yield ran("cell, default", SMALL, device)
    yield ran("cell, fast", f"{SMALL}recipe:\n  extends: quick\n  speed: {FAST}\n", device)


def quickstart(device: torch.device, quick: bool) -> Iterator[Line]:
    """Every cell with the default speed."""
    yield ran("quickstart, all cells", SMALL if quick else "", device)


def ran(what: str, block: str, device: torch.device) -> Line:
    """The line of the cells of quickstart.yaml with `block` in it, by the inline executor."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gpu.yaml"
        file.write_text(f"extends: {QUICKSTART}\nname: gpu\ndevice: {device.type}\n{block}")
        storage = open_storage(str(Path(folder) / "store"))
        assignment = Assignment(storage.url, gpus=1.0 if device.type == "cuda" else 0.0)
        outcomes = [execute(unit, assignment) for unit in plan(load_sweep(file), storage).units]
        rows = Store(storage).table().to_pylist()
    failed = [f"{one.error_type}: {one.error_message}" for one in outcomes if one.status not in ("ok", "skipped")]
    fine = [row["metric_final"] for row in rows if row["status"] == "ok"]
    notes = ", ".join(sorted({row["speed_note"] for row in rows if row.get("speed_note")}))
    latency = [f"{row['latency_ms']:.2f}" for row in rows if row.get("latency_ms")]
    summary = f"{len(fine)} of {len(rows)} cells, top1 {min(fine, default=0):.1f} to {max(fine, default=0):.1f}"
    timed = f"; latency {latency[0]} ms" if latency else ""
    said = f"; {notes}" if notes else ""
    return what, bool(fine) and not failed, f"{summary}{timed}{said}; {failed[0] if failed else 'none failed'}"
