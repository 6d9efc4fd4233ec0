"""The script that `make gpu` runs, on a CPU: it needs neither ray nor ultralytics, and what fails is a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from raybench.models.build import build_model
from tests.benchmarks import bench_copies, bench_training
from tests.card import a_card
from tests.gpu import check

CPU = torch.device("cpu")
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
from tests.gpu import check
check.QUICKSTART = Path(sys.argv[1])
cpu = torch.device("cpu")
print(next(check.quickstart(cpu, False))[2])
print(next(check.formats(check.patterns(300), cpu, 1))[1])
print(bench_training.FACTS.classes)
"""


def test_the_check_runs_without_ray_and_ultralytics(tmp_path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    command = [sys.executable, "-c", RUN, str(tmp_path / "sweep.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(check.__file__).parents[2], check=False)
    summary, formats, classes = done.stdout.splitlines() or [done.stderr] * 3
    assert (summary[:10], summary[-11:], formats, classes) == ("2 of 2 cel", "none failed", "True", "10"), done.stderr


def test_what_raises_is_a_line_and_the_others_go_on(monkeypatch) -> None:
    def broken(*args):
        raise RuntimeError("CUDA error: no kernel\nmore")
        yield

    def missing(*args):
        raise ModuleNotFoundError("No module named 'timm'")
        yield

    for name in ("formats", "graphs", "resume", "memory"):
        monkeypatch.setattr(check, name, lambda *args, name=name: iter([(name, True, "fine")]))
        getattr(check, name).__name__ = name
    monkeypatch.setattr(check, "precisions", broken)
    monkeypatch.setattr(check, "quickstart", missing)
    found = [line for line, _ in check.lines(CPU, True)]
    assert found == [
        ("broken", False, "RuntimeError: CUDA error: no kernel"), ("formats", True, "fine"), ("graphs", True, "fine"),
        ("resume", True, "fine"), ("memory", True, "fine"), ("quickstart", True, "not run: No module named 'timm'"),
    ]  # fmt: skip


def test_every_line_of_a_card_is_as_expected_on_a_fake_one(monkeypatch) -> None:
    monkeypatch.setattr(check, "BATCH", 8)
    monkeypatch.setattr(check, "SIDE", 8)
    monkeypatch.setattr(check, "build_model", lambda name, facts: build_model("test-convnet", facts))
    monkeypatch.setattr(check, "patterns", lambda images, make=check.patterns: make(120))
    monkeypatch.setattr(check, "quickstart", lambda device, quick: iter(()))
    with a_card(monkeypatch):
        found = [line for line, _ in check.lines(torch.device("cuda"), True)]
    said = {what: (fine, figures) for what, fine, figures in found}
    assert [what for what, _, _ in found] == [
        "product of 8 x 8, bfloat16", "product of 8 x 8, float32", "accuracy, fp32", "accuracy, tf32", "accuracy, bf16",
        "memory format", "steps as CUDA graphs", "resume after a kill", "memory back to its baseline",
    ]  # fmt: skip
    assert said["steps as CUDA graphs"][0], said
    assert said["steps as CUDA graphs"][1].startswith("on, largest gap")
    assert said["resume after a kill"] == (True, "largest gap 0.0e+00")
    assert all(said[what][0] for what in ("memory format", "memory back to its baseline"))


def test_the_benchmark_has_its_rows_on_a_fake_card(monkeypatch) -> None:
    """Also those that a CPU lacks: TF32, fast kernels, graphs, and all of them together."""
    monkeypatch.setattr(bench_training, "NETS", {"tiny": "test-convnet"})
    monkeypatch.setattr(bench_training, "product_rate", lambda device: 1e12)
    monkeypatch.setattr(bench_training, "plain", lambda *args: lambda: None)  # its loader's pinned memory is CUDA's own
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: None)
    with a_card(monkeypatch):
        found = list(bench_training.measure("tiny", 64, 1, torch.device("cuda"), ["speed"], 8, False))
    options = ["default", "channels_last", "bf16", "bf16 channels_last", *bench_training.ON_GPU]
    for kind in ("dense", "8x"):
        of_kind = [row for row in found if f" {kind} " in row]
        assert [row.partition("speed: ")[2].partition("  ")[0] for row in of_kind] == ["", *options]
        assert all("images/s" in row and "x plain" in row for row in of_kind)


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
