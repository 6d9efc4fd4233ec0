"""The axis of image sizes on images in files: class folders, and detection data with their boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raybench.datasets.files import list_classes
from tests.unit.sweeps import only_row, rows_of

TEXT = """
name: s
datasets: [{{name: {dataset}, params: {{image_size: {own}}}}}]
models: [{model}]
methods: [magnitude-l2]
speedups: [1.5]
image_sizes: [{own}, {smaller}]
data_roots: {{{dataset}: {root}}}
recipe:
  name: t
  base: {{epochs: 0, lr: 0.01}}
  finetune: {{epochs: 1, lr: 0.01, batch_size: 4}}
  calibration_images: 2
"""


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes of noisy pictures, one dark and one bright, 40 wide and 30 high."""
    list_classes.cache_clear()
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, mean in (("dark", 60), ("bright", 190)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(20):
                pixels = draws.integers(mean - 40, mean + 40, (30, 40, 3)).astype("uint8")
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    """Pictures of 64 x 64 with one bright box each, and their labels."""
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(8):
            pixels = draws.integers(0, 60, (64, 64, 3)).astype("uint8")
            pixels[16:48, 16:48] = 230
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{number}.png")
            (tmp_path / "labels" / split / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [box]\ntrain: images/train\nval: images/val\n")
    return tmp_path


def check(rows, smaller: int, share: float) -> None:
    """Both cells ended well and started from one base; the smaller images cost `share` of it before channels go."""
    own, small = (only_row(rows, image_size=size) for size in (None, smaller))
    for row in (own, small):
        assert row["status"] == "ok", row["error_message"]
        assert row["metric_final"] is not None
    assert own["macs_base"] == small["macs_base"]
    assert own["base_sha256"] == small["base_sha256"]
    assert own["speedup"] == pytest.approx(1.5, rel=0.03)
    assert small["speedup"] == pytest.approx(max(1.5, 1 / share), rel=0.06)
    assert small["params"] > own["params"]  # the size saves a part, so that more channels stay


def test_class_folders_are_read_at_the_size(class_folders, tmp_path_factory) -> None:
    text = TEXT.format(dataset="imagefolder", own=24, smaller=20, model="cifar-resnet20", root=class_folders)
    rows, _ = rows_of(tmp_path_factory.mktemp("sized"), text)
    check(rows, 20, (20 / 24) ** 2)


def test_detection_data_are_read_at_the_size_with_their_boxes(yolo_folder, tmp_path_factory) -> None:
    pytest.importorskip("ultralytics", reason="the extra detection is not installed")
    text = TEXT.format(dataset="yolo", own=64, smaller=32, model="yolov8n", root=yolo_folder)
    rows, _ = rows_of(tmp_path_factory.mktemp("sized"), text)
    check(rows, 32, 0.25)
