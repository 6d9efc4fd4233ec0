"""One-line faults that no other test would notice, each with the property that it breaks."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import raybench
from raybench.datasets import digits
from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.pipeline.cache import WEIGHTS
from raybench.pipeline.network import model_of
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.tasks.classification import Classification
from raybench.tasks.open import open_task
from raybench.tasks.training.ema import Average
from raybench.tasks.training.seeding import generator
from tests.augmentations import crop_resized, flipped
from tests.unit.sweeps import written

CPU = torch.device("cpu")
SWEEP = """
name: s
datasets: digits
models: test-convnet
methods: magnitude-l2+group-norm
speedups: 2
protocol: {protocol}
recipe:
  base: {{epochs: 3, batch_size: 64, lr: 0.2}}
  sparsify: {{epochs: 2, batch_size: 64, lr: 0.2}}
  finetune: {{epochs: 3, batch_size: 64, lr: 0.3}}
"""

SPARSE = "{epochs: 3, batch_size: 64, lr: 0.2, schedule: multistep, milestones: [2], gamma: 50}"  # the last epoch fails


def classes_of(images: Tensor, labels: Tensor) -> Data:
    facts = DataFacts("x", "classification", 6, 1, 4, (0.0,), (1.0,), "")
    split = TensorImages(Pixels(images), labels, torch.arange(len(labels)))
    return Data(facts, split, split, split, split, "")


def run(folder, protocol: str = "raybench") -> tuple[Mapping[str, Any], bytes]:
    """The one row of the sweep, and the pruned network's weights."""
    file = written(folder, SWEEP.format(protocol=protocol))
    end = raybench.run_sweep(file, folder / "store", local=True)
    assert set(end.statuses.values()) == {"ok"}, end.outcomes
    row = raybench.load_results(end.storage).iloc[0]
    return row, (folder / "store" / row["artifact"] / WEIGHTS).read_bytes()


@pytest.fixture
def poisoned(monkeypatch):
    """Digits whose test labels are all wrong, each by one."""

    def make(*args: Any, **params: Any) -> Data:
        data = original(*args, **params)
        data.test.labels = (data.test.labels + 1) % 10
        return data

    original = digits.digits
    return lambda: monkeypatch.setattr(digits, "digits", make)


def test_test_labels_choose_no_epoch_and_no_weight(tmp_path, poisoned):
    """Under the raybench protocol the test split is read for the final figures alone."""
    for name in ("true", "wrong"):
        (tmp_path / name).mkdir()
    row, weights = run(tmp_path / "true")
    poisoned()
    other, same = run(tmp_path / "wrong")
    assert weights == same
    assert row["selected_epoch"] == other["selected_epoch"]
    assert list(row["curve"]) == list(other["curve"])
    assert row["metric_final"] > 50 > other["metric_final"]


def test_test_labels_do_choose_the_epoch_under_the_published_protocol(tmp_path, poisoned):
    """The check above can fail: the published protocol keeps the best test epoch."""
    for name in ("true", "wrong"):
        (tmp_path / name).mkdir()
    row, _ = run(tmp_path / "true", "pruningbench")
    poisoned()
    other, _ = run(tmp_path / "wrong", "pruningbench")
    assert list(row["curve"]) != list(other["curve"])


@pytest.mark.parametrize(("protocol", "split"), [("raybench", "val"), ("pruningbench", "test")])
def test_only_the_published_protocol_keeps_the_best_test_epoch_of_sparse_training(tmp_path, protocol, split):
    text = SWEEP.format(protocol=protocol).replace("{epochs: 2, batch_size: 64, lr: 0.2}", SPARSE)
    text = text.replace("finetune: {epochs: 3", "finetune: {epochs: 0")
    file = written(tmp_path, text)
    end = raybench.run_sweep(file, tmp_path / "store", local=True)
    assert set(end.statuses.values()) == {"ok"}, end.outcomes
    (trial,) = resolve(load_sweep(file))
    folder = tmp_path / "store/stages" / trial.sparsify_key
    curve = [epoch["top1"] for epoch in json.loads((folder / "result.json").read_text())["curve"]]
    task = open_task(trial, {}, CPU)
    assert max(curve) > curve[-1]  # else the two rules are one
    expected = max(curve) if protocol == "pruningbench" else curve[-1]
    assert task.evaluate(model_of(folder, trial, task, CPU), split)["top1"] == expected


def test_calibration_images_follow_the_seed():
    images = torch.rand(200, 1, 4, 4, generator=generator(0))
    task = Classification(classes_of(images, torch.arange(200) % 6), CPU)
    first, again, other = (task.calibration(32, 16, seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    rows = {tuple(image.flatten().tolist()) for image in first.images}
    shared = sum(tuple(image.flatten().tolist()) in rows for image in other.images)
    assert shared < 16  # 32 of 200: five by chance


def test_half_of_the_images_are_mirrored():
    images = torch.rand(4000, 1, 1, 8, generator=generator(0))
    turned = flipped(images, generator(1))
    share = float((turned != images).flatten(1).any(1).float().mean())
    assert share == pytest.approx(0.5, abs=0.03)  # four standard errors of 4,000 draws
    assert all(torch.equal(new, old) or torch.equal(new, old.flip(2)) for new, old in zip(turned, images, strict=True))


def test_a_wide_crop_keeps_its_centre():
    """A picture whose value is its column, cropped: columns of the crop run over the box and nothing else."""
    height, width = 16, 16
    columns = torch.arange(width, dtype=torch.float32).expand(1, 1, height, width)
    rows = columns.transpose(2, 3)
    draws = torch.tensor([[0.3, 1.0, 0.5, 0.25]])  # a box that is wider than tall, off the centre
    area = (0.08 + 0.92 * 0.3) * height * width
    tall, wide = (area / (4 / 3)) ** 0.5, (area * 4 / 3) ** 0.5
    top, left = 0.5 * (height - tall), 0.25 * (width - wide)
    cropped = crop_resized(columns, draws)[0, 0].mean(0)
    expected = left + (torch.arange(width) + 0.5) * wide / width - 0.5
    torch.testing.assert_close(cropped, expected, atol=1e-3, rtol=0)
    expected = top + (torch.arange(height) + 0.5) * tall / height - 0.5
    torch.testing.assert_close(crop_resized(rows, draws)[0, 0].mean(1), expected, atol=1e-3, rtol=0)


class Fixed(nn.Module):
    """Ranks the classes 0, 1, 2, ... whatever it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return -torch.arange(6.0).expand(len(images), -1)


def test_top_5_counts_five():
    task = Classification(classes_of(torch.zeros(6, 1, 4, 4), torch.arange(6)), CPU)
    found = task.evaluate(Fixed(), "test")
    assert (found["top1"], found["top5"]) == pytest.approx((100 / 6, 500 / 6))


def test_the_average_follows_weights_and_copies_counters():
    norm = nn.BatchNorm1d(2)
    average = Average(norm, 0.9)
    norm.train()(torch.randn(8, 2, generator=generator(0)))
    with torch.no_grad():
        norm.weight += 1
    average.update()
    with average.swapped_into(norm):
        assert int(norm.num_batches_tracked) == 1
        torch.testing.assert_close(norm.weight.detach(), torch.full((2,), 1.1))
    assert int(norm.num_batches_tracked) == 1
