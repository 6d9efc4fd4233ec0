"""Whole cells of the criteria that refit what is left: the row, the network taken home and the next step see it."""

from __future__ import annotations

import pytest
import torch

from raybench import registry
from raybench.cli.main import main
from raybench.groups.trace import trace
from raybench.methods.protocols import Calibration
from raybench.results.store import Store
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from raybench.storage.open import open_storage
from tests.pruning_nets import small_resnet

SWEEP = """
name: refits
models: test-convnet
datasets: digits
methods: [cp, thinet, {name: cp, params: {reconstruct: false}}, {name: thinet, params: {reconstruct: false}}]
speedups: 3
recipe:
  base: {epochs: 4, batch_size: 64, optimizer: adamw, lr: 0.004, weight_decay: 0.05}
  sparsify: {epochs: 1, batch_size: 64, optimizer: adamw, lr: 0.001}
  finetune: {epochs: 0, batch_size: 64, lr: 0.001}
  calibration_images: 64
"""


def test_a_refitted_cell_loses_less_than_one_that_is_only_cut(tmp_path):
    (tmp_path / "refits.yaml").write_text(SWEEP)
    assert main(["run", str(tmp_path / "refits.yaml"), "--local", "--storage", str(tmp_path / "store")]) == 0
    rows = Store(open_storage(str(tmp_path / "store"))).table().to_pylist()
    found = {(row["importance"], '"reconstruct":true' in row["trial"]): row for row in rows}
    assert len(found) == 4
    for name in ("cp", "thinet"):
        refitted, plain = (found[name, on]["metric_pruned"] for on in (True, False))
        assert refitted > plain + 5


@pytest.mark.parametrize("name", ["cp", "thinet"])
def test_the_iterative_schedule_scores_what_was_refitted(name):
    """The cut follows from scores alone, so only refits between the steps can make another one of it."""
    model = small_resnet()
    torch.manual_seed(0)
    images = torch.randn(16, 3, 16, 16)
    calibration, groups = Calibration(images, torch.arange(16) % 10, 8), trace(model, images[:1])
    criteria = (registry.importance.load(name)(reconstruct=on) for on in (True, False))
    refitted, plain = (
        select(Scoring(one, model, calibration), images[:1], groups, [2.0], schedule="iterative")[2.0].kept
        for one in criteria
    )
    assert refitted != plain
