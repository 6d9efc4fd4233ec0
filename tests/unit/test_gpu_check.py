"""The lines that `make gpu` prints, on a CPU and on a card of the processor's memory: without ray and ultralytics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from raybench.models.build import build_model
from raybench.tasks.training import compiling
from tests.benchmarks import bench_copies, bench_training, grid, products, training_epochs
from tests.benchmarks.bench_training import Case, Row
from tests.card import a_card
from tests.gpu import card, check, parts, speed, training

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SWEEP = """
name: gpu
datasets: digits
models: test-convnet
methods: [random, taylor]
speedups: 2
recipe:
  name: r
  base: {epochs: 1, lr: 0.05, batch_size: 256}
  sparsify: {epochs: 0, lr: 0.05}
  finetune: {epochs: 1, lr: 0.05, batch_size: 256}
  calibration_images: 32
resources: {cpus: 1, memory: 1GiB}
"""
RUN = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(("ray", "ultralytics", "cv2", "fastapi"), None))  # importing one of them fails
import torch
from tests.benchmarks import bench_training
from tests.gpu import cells, training
cells.QUICKSTART, training.IMAGES = Path(sys.argv[1]), (300, 300)
cpu = torch.device("cpu")
print(next(cells.quickstart(cpu, False))[2])
print(next(training.formats(cpu, True))[1])
print(bench_training.FACTS.classes)
"""


def test_the_check_runs_without_ray_and_ultralytics(tmp_path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    command = [sys.executable, "-c", RUN, str(tmp_path / "sweep.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(check.__file__).parents[2], check=False)
    summary, formats, classes = done.stdout.splitlines() or [done.stderr] * 3
    assert (summary[:10], summary[-11:], formats, classes) == ("2 of 2 cel", "none failed", "True", "10"), done.stderr


def test_every_line_of_a_card_is_as_expected_on_a_fake_one(monkeypatch) -> None:
    monkeypatch.setattr(training, "BATCH", 8)
    monkeypatch.setattr(products, "SIDES", {"cuda": 8})
    monkeypatch.setattr(training, "IMAGES", (120, 120))
    monkeypatch.setattr(training, "build_model", lambda name, facts: build_model("test-convnet", facts))
    lines = [card.card, card.products, training.graphs, training.formats, training.resume, training.memory]
    with a_card(monkeypatch):
        found = [line for part in (*lines, training.precisions) for line in part(CUDA, True)]
    said = {what: (fine, figures) for what, fine, figures in found}
    assert list(said) == [
        "device", "product in bf16", "product in tf32", "product in fp32", "plain steps twice", "steps as CUDA graphs",
        "graphs, bf16, fast kernels", "memory format", "resume after a kill", "memory after plain steps",
        "memory after graphs", "accuracy, fp32", "accuracy, tf32", "accuracy, bf16",
    ]  # fmt: skip
    assert said["device"][1].startswith("a card of this test, capability 9.0, 65536 of 131072 MiB free; torch ")
    assert said["steps as CUDA graphs"][0], said
    assert said["steps as CUDA graphs"] == (True, "on, gap 0.0e+00; no note")
    assert said["resume after a kill"] == (True, "gap 0.0e+00")
    assert all(fine for what, (fine, _) in said.items() if not what.startswith("accuracy"))


def test_the_parts_are_functions_of_their_modules() -> None:
    import importlib

    for part in parts.PARTS.values():
        module, _, function = part.where.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def fake_card_measure(monkeypatch, **case) -> list[Row | str]:
    """The rows of a small network on a fake card, whose plain loop does nothing: pinned memory is CUDA's own."""
    monkeypatch.setattr(bench_training, "NETS", {"tiny": "test-convnet"})
    monkeypatch.setattr(bench_training, "product_rate", lambda device, precision: 1e12)
    monkeypatch.setattr(bench_training, "plain", lambda *args: lambda: None)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(compiling, "_has_compiler", lambda device: True)
    monkeypatch.setattr(compiling, "TIMED", 1)
    monkeypatch.setattr(training_epochs, "WARM_STEPS", 8)
    monkeypatch.setattr(training_epochs, "TIMED_EPOCHS", 1)
    with a_card(monkeypatch):
        return list(bench_training.measure("tiny", Case(CUDA, 64, 1, 8, **case)))


@pytest.mark.timeout(240)
def test_the_benchmark_has_its_rows_on_a_fake_card(monkeypatch) -> None:
    """Also those that a CPU lacks: TF32, fast kernels, graphs, all of them together, and that compiled."""
    found = fake_card_measure(monkeypatch, only=("speed", "no workers"), kinds=("dense",))
    options = ["default", "channels_last", "bf16", "bf16 channels_last", *bench_training.ON_GPU]
    rows = {row.key: row for row in found if isinstance(row, Row)}
    assert list(rows) == ["plain", "plain, no workers", *(f"speed: {one}" for one in options)]
    assert all(row.images_s > 0 and row.share and "x plain" in str(row) for row in rows.values())
    assert [rows[key].product for key in ("plain", "speed: default", "speed: tf32, all", "speed: bf16")] == [
        "tf32", "fp32", "tf32", "bf16",
    ]  # fmt: skip
    assert rows["speed: bf16, all, compiled"].note.startswith("first step compiled in ")
    assert "no graphs" not in rows["speed: bf16, all, compiled"].note + rows["speed: graphs"].note


def test_the_benchmark_runs_as_a_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench_training, "NETS", {"tiny": "test-convnet"})
    monkeypatch.setattr(products, "SIDES", {"cpu": 8})
    words = "tiny --images 16 --batch 8 --turns 1 --device cpu --only EMA bare --compiled --busy --grid"
    monkeypatch.setattr(sys, "argv", ["bench_training", *words.split()])
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    bench_training.main()
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.endswith("16 images, batch 8, 1 turns; 0 loader processes of the plain loop")
    keys = ["plain", "bare nchw", "bare channels_last", "bare nchw compiled", "bare channels_last compiled",
            "speed: default", "EMA"]  # fmt: skip
    assert [line[17:46].strip() for line in rows] == keys * 2


@pytest.mark.timeout(120)
def test_the_busy_share_is_asked_of_profiler_and_driver(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    monkeypatch.setattr(training_epochs, "SAMPLED_S", 1e-3)
    monkeypatch.setattr(training_epochs, "SAMPLE_S", 1e-3)
    monkeypatch.setattr(training_epochs, "PAST_S", 0.0)
    found = fake_card_measure(monkeypatch, only=("bf16, all",), leave_out="compiled", busy=True)
    assert [" ".join(str(row).split()) for row in found if not isinstance(row, Row)] == [
        f"tiny {kind} speed: {key} GPU busy: the profiler saw no kernel, the driver 87 %"
        for kind in ("dense", "8x") for key in ("bf16, all", "default")
    ]  # fmt: skip


def test_work_of_streams_side_by_side_counts_once() -> None:
    assert training_epochs.covered([(5, 6), (0, 2), (1, 3), (5.5, 5.75)]) == 4


def row(net: str, kind: str, key: str, images_s: float, x_plain: float = 1.0, share: float = 1.0) -> Row:
    return Row(net, kind, key, images_s, 1, x_plain, None, share, "bf16")


def test_goals_are_those_of_the_fastest_dense_row() -> None:
    rows = [row("resnet18", "dense", "plain", 9.0), row("resnet18", "dense", "speed: default", 1.0, 1.5, 20.0),
            row("resnet18", "dense", "speed: bf16, all", 1.0, 4.25, 46.4), row("resnet18", "8x", "speed: x", 1.0, 9.0),
            row("resnet20", "dense", "speed: x", 1.0, 7.5)]  # fmt: skip
    assert [" ".join(line.split()) for line in bench_training.goals(rows)] == [
        "resnet20 best: x: 7.50 x plain (goal 8)",
        "resnet18 best: bf16, all: 4.25 x plain (goal 4), 46 % of a product in bf16 (goal 45)",
    ]


def test_the_grid_is_estimated_as_by_a_plan() -> None:
    """3 bases of 200 epochs; 15 sparsifyings and 459 fine-tunings of 100."""
    rows = [row(net, kind, "speed: x", 1000.0 if kind == "dense" else 8000.0)
            for net in grid.MODELS for kind in ("dense", "8x")]  # fmt: skip
    (line,) = grid.lines(rows)
    dense, cut = 50_000 / 1000 / 3600, 50_000 / 8000 / 3600
    cells = sum(153 * 100 * (cut + (dense - cut) * (1 / x - 1 / 8) / (7 / 8)) for x in (2, 4, 8))
    assert f"{3 * 200 * dense + 15 * 100 * dense + cells:.3g} GPU-hours" in line
    assert line.startswith("grid, x: 459 cells, training alone (")
    assert list(grid.lines(rows[:-1])) == ["grid, x: not estimated: cifar-resnet50 was not measured dense and at 8x"]


def test_the_lines_about_speed_are_those_of_the_benchmark(monkeypatch) -> None:
    monkeypatch.setattr(bench_training, "NETS", dict.fromkeys(bench_training.NETS, "test-convnet"))
    monkeypatch.setattr(bench_training, "BATCH", 8)
    monkeypatch.setattr(products, "SIDES", {"cpu": 8})
    head, *rows, goal = speed.trained("resnet18", 8, CPU, quick=True)
    assert head == ("resnet18, batch 8", True, "8 images an epoch, plain loop with 0 loader processes")
    assert [line[2][:32].rstrip() for line in rows] == [
        f"resnet18  {kind:<6} {key}" for kind in ("dense", "8x") for key in ("plain", "speed: default")
    ]
    assert (goal[0], goal[2].split()[:3]) == ("goal", ["resnet18", "best:", "default:"])
    *rows, last = speed.whole_grid(CPU, quick=True)
    assert len(rows) == 3 * 2 * 2
    assert (last[0], last[2][:44]) == ("grid", "grid, default: 459 cells, training alone (15")


def test_copies_are_measured_as_for_gpus_auto(monkeypatch) -> None:
    class Twice:
        def __init__(self, trial, context) -> None:
            self.name, self.total_mb = context.device.type, 1000.0

        def beside(self, copies):
            return 100.0, 0.01 * copies

    monkeypatch.setattr(bench_copies, "SideBySide", Twice)
    monkeypatch.setattr(bench_copies, "usable_cores", lambda: 2)
    found = [" ".join(row.split()) for row in bench_copies.rows("test-convnet", CPU, 100)]
    assert found[0].startswith("test-convnet 1 at once 100 MiB each 10.00 ms a step of 100 10000 images/s")
    assert found[1].startswith("test-convnet 2 at once 100 MiB each 20.00 ms a step of 100 10000 images/s")
    assert found[2] == "test-convnet no more copies: its cores hold 2"


def test_what_is_missing_is_said_in_one_sentence(monkeypatch, capsys) -> None:
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None if name == "yaml" else SimpleNamespace())
    assert check.runnable(["device", "copies", "grid"], check.Table(None)) == ["device"]
    assert capsys.readouterr().out == "missing: yaml (pip install PyYAML); not run without: copies, grid\n"
