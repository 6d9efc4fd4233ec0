"""Statistics of batch norms measured anew between cut and fine-tuning: what changes, what doesn't, and the column."""

import copy

import pytest
import torch
from torch import nn

from raybench.execution.run import run_sweep
from raybench.pipeline.recalibrate import measure_norms
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.mistakes import SpecError
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve

SWEEP = """
name: tiny
models: test-convnet
datasets: digits
methods: magnitude-l2
speedups: [1.5]
recipe:
  recalibration_images: {images}
  base: {{epochs: 3, batch_size: 64, optimizer: adamw, lr: 0.004}}
  finetune: {{epochs: {epochs}, batch_size: 64, optimizer: adamw, lr: 0.003}}
"""


def file_of(folder, images, epochs=0, more=""):
    (folder / f"{images}.yaml").write_text(SWEEP.format(images=images, epochs=epochs) + more)
    return folder / f"{images}.yaml"


def test_the_statistics_are_the_mean_over_the_batches_and_nothing_else_changes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.9), nn.Flatten())
    net[1].running_mean.fill_(7)
    before, images = copy.deepcopy(net), torch.randn(12, 3, 6, 6)
    with torch.random.fork_rng():
        measure_norms(net, [net[1]], list(images.split(4)))
    inside = net[0](images).detach().unflatten(0, (3, 4))
    torch.testing.assert_close(net[1].running_mean, inside.mean((0, 1, 3, 4)))
    torch.testing.assert_close(net[1].running_var, inside.transpose(1, 2).flatten(2).var(2).mean(0), rtol=1e-4, atol=0)
    assert net[1].momentum == 0.3
    assert not net[1].training
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))


def test_the_row_has_both_figures_and_shares_the_cut_with_a_trial_without(tmp_path):
    plain, anew = (resolve(load_sweep(file_of(tmp_path, images)))[0] for images in (0, 200))
    assert plain.trial_id != anew.trial_id
    assert plain.select_key == anew.select_key
    assert "recalibration_images" not in plain.model_dump()["recipe"]
    for images in (0, 200):
        run_sweep(file_of(tmp_path, images), tmp_path / "store", local=True)
    rows = {row["trial_id"]: row for row in Store(open_storage(tmp_path / "store")).table().to_pylist()}
    plain, anew = rows[plain.trial_id], rows[anew.trial_id]
    assert plain["metric_recalibrated"] is None
    assert plain["metric_pruned"] == plain["metric_final"] == anew["metric_pruned"]
    assert anew["metric_recalibrated"] == anew["metric_final"] > anew["metric_pruned"] + 2


@pytest.mark.parametrize("more", ["protocol: pruningbench\n", "protocols: [raybench, pruningbench]\n"])
def test_the_published_rules_measure_none_anew(more, tmp_path):
    with pytest.raises(SpecError, match=r"recalibration_images: found 200, expected 0: protocol pruningbench"):
        load_sweep(file_of(tmp_path, 200, more=more))
    load_sweep(file_of(tmp_path, 0, more=more))


def test_more_images_than_there_are_is_told_before_anything_runs(tmp_path):
    with pytest.raises(Exception, match=r"sets 9999 calibration images, .*recalibration_images, too"):
        run_sweep(file_of(tmp_path, 9999), tmp_path / "store", local=True)
