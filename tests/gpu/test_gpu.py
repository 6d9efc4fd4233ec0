"""What only a GPU can show. Skipped, with the reason, where there is none."""

import importlib.util
from pathlib import Path

import pytest
import torch

from raybench.cli.main import main
from raybench.execution.isolation import free
from raybench.execution.worker import Assignment, execute
from raybench.plan.plan import plan
from raybench.progress.journal import read_journal
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
QUICKSTART = Path(__file__).parents[2] / "sweeps" / "quickstart.yaml"
MEMORY_BOUND = 64 << 20  # bytes: cuBLAS and cuDNN keep workspaces


def sweep_file(folder: Path, text: str) -> Path:
    file = folder / "gpu.yaml"
    file.write_text(f"extends: {QUICKSTART}\nname: gpu\n{text}")
    return file


def rows_of(storage: Path) -> list[dict]:
    return Store(open_storage(str(storage))).table().to_pylist()


@needs_ray
@pytest.mark.timeout(900)
def test_the_quickstart_runs_on_a_gpu(tmp_path):
    sweep = sweep_file(tmp_path, "resources: {cpus: 1, gpus: 1}\n")
    assert main(["run", str(sweep), "--storage", str(tmp_path / "store")]) == 0
    rows = rows_of(tmp_path / "store")
    assert len(rows) == 56
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["device"] for row in rows} == {"cuda"}
    assert all(row["latency_ms"] > 0 and row["throughput"] > 0 for row in rows if row["exclusive"])
    assert all(0 < row["activations"] <= row["activations_base"] for row in rows)


@needs_ray
@pytest.mark.timeout(600)
def test_two_trials_share_a_gpu_half_each(tmp_path):
    sweep = sweep_file(tmp_path, "models: cifar-resnet20\nseeds: 0\nresources: {cpus: 1, gpus: 0.5}\ninclude: []\n")
    assert main(["run", str(sweep), "--storage", str(tmp_path / "store")]) == 0
    runs = [entry for entry in read_journal(open_storage(str(tmp_path / "store"))) if entry["kind"] == "cell"]
    spans = [(entry["started"], entry["started"] + entry["seconds"]) for entry in runs]
    overlaps = sum(a < d and c < b for i, (a, b) in enumerate(spans) for c, d in spans[i + 1 :])
    assert overlaps > 0
    assert {entry["status"] for entry in runs} == {"ok"}


@pytest.mark.timeout(600)
def test_device_memory_is_back_at_its_baseline_after_twenty_cells(tmp_path):
    sweep = load_sweep(sweep_file(tmp_path, "models: cifar-resnet20\n"))
    storage = open_storage(str(tmp_path / "store"))
    units = plan(sweep, storage).units
    assignment = Assignment(storage.url, gpus=1)
    cells = 0
    for unit in units:
        outcome = execute(unit, assignment)
        assert outcome.status == "ok", outcome.error_message
        if unit.kind == "base":
            free()
            baseline = torch.cuda.memory_allocated()
        cells += unit.kind == "cell"
        free()  # workspaces of cuBLAS, which short units leave for the next one
        assert torch.cuda.memory_allocated() - baseline < MEMORY_BOUND
        if cells == 20:
            break
    assert cells == 20


@pytest.mark.timeout(300)
def test_a_base_trained_on_the_gpu_serves_a_cell_on_the_cpu(tmp_path):
    sweep = load_sweep(
        sweep_file(tmp_path, "models: cifar-resnet20\nmethods: magnitude-l1\nspeedups: 2\ninclude: []\n")
    )
    storage = open_storage(str(tmp_path / "store"))
    for unit in plan(sweep, storage).units:
        outcome = execute(unit, Assignment(storage.url, gpus=1 if unit.kind == "base" else 0))
        assert outcome.status == "ok", outcome.error_message
    rows = rows_of(tmp_path / "store")
    assert {row["device"] for row in rows} == {"cpu"}
    assert all(row["metric_base"] > 90 for row in rows)
