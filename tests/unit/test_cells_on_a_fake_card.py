"""Every criterion and whole cells on a card that is made of the processor's memory: the numbers are the CPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybench import load_pruned, registry
from raybench.errors import NotSupported
from raybench.execution.worker import Assignment, execute
from raybench.groups.trace import trace
from raybench.methods.repair import criterion_named
from raybench.models.build import build_model
from raybench.plan.plan import plan
from raybench.results.store import Store
from raybench.scoring.scorer import Scoring
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from raybench.tasks.classification import Classification
from tests.card import a_card
from tests.unit.test_on_a_fake_card import CPU, CUDA, FACTS, data

SCORED = [name for name in registry.importance.entries() if name not in ("small", "uniform")]
SWEEP = """
name: s
device: {device}
datasets: digits
models: test-convnet
methods: [taylor, cp, magnitude-l2+growing-reg, resrep]
speedups: 2
recipe:
  name: r
  base: {{epochs: 1, lr: 0.05, batch_size: 256}}
  sparsify: {{epochs: 1, lr: 0.05, batch_size: 256}}
  finetune: {{epochs: 1, lr: 0.05, batch_size: 256}}
  calibration_images: 32
  recalibration_images: 32
resources: {{cpus: 1, memory: 1GiB}}
"""
SAME = ("status", "macs", "params", "kept", "metric_base", "metric_pruned", "metric_final", "loss_final", "activations")


def scores(name: str, net: str, device: torch.device) -> list[np.ndarray | None]:
    torch.manual_seed(0)
    model = build_model(net, FACTS).to(device).eval()
    groups = trace(model, torch.zeros(1, 3, 16, 16, device=device), classes=10)
    images = Classification(data(), device).calibration(24, 8, 0)
    return Scoring(criterion_named(name, {}), model, images, 0).scorer(groups).scores()


@pytest.mark.parametrize("name", SCORED)
def test_scores_on_a_card_are_those_of_a_cpu(name, monkeypatch) -> None:
    for net in ("test-convnet", "test-vit"):
        try:
            expected = scores(name, net, CPU)
        except NotSupported:
            continue
        with a_card(monkeypatch):
            found = scores(name, net, CUDA)
        for here, there in zip(expected, found, strict=True):
            if here is not None:  # the sums of obd-c and obd-hessian differ in their last bits
                np.testing.assert_allclose(here, there, rtol=1e-6)


def rows(folder: Path, device: str) -> list[dict[str, Any]]:
    folder.mkdir()
    (folder / "s.yaml").write_text(SWEEP.format(device=device))
    storage = open_storage(str(folder / "store"))
    for unit in plan(load_sweep(folder / "s.yaml"), storage).units:
        outcome = execute(unit, Assignment(storage.url, gpus=float(device == "cuda")))
        assert outcome.status == "ok", outcome.error_message
    return sorted(Store(storage).table().to_pylist(), key=lambda row: (row["importance"], row["regularizer"] or ""))


@pytest.mark.timeout(300)
def test_cells_on_a_card_are_those_of_a_cpu(tmp_path, monkeypatch) -> None:
    here = rows(tmp_path / "cpu", "cpu")
    with a_card(monkeypatch):
        there = rows(tmp_path / "cuda", "cuda")
        for row in there:
            net = load_pruned(tmp_path / "cuda" / "store" / row["artifact"], "cuda")
            assert {value.device.type for value in net.state_dict().values()} == {"cuda"}
    assert {row["device"] for row in there} == {"cuda"}
    assert all(row["latency_ms"] == 1.0 for row in there), "between two events"
    for one, other in zip(here, there, strict=True):
        assert {name: one[name] for name in SAME} == {name: other[name] for name in SAME}
