"""EXIF's eight orientations: exact pixels for both tasks, and the same mAP for photos that are stored turned."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from raybench.datasets.files import decode
from raybench.datasets.image_files import TURN, look, turned
from raybench.datasets.open import open_dataset
from tests.shared import DATA, needs_data

WEIGHTS = DATA / "weights" / "yolov8n.pt"
TALL, WIDE = 11, 7


def stored(pixels, orientation, file, **options):
    """Write `pixels` as a camera does that is turned by EXIF's `orientation`; what is upright is `pixels`."""
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, 1)  # the turn that undoes it
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(turned(pixels, back)).save(file, exif=exif, **options)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (TALL, WIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_gives_the_upright_pixels(orientation, ending, picture, tmp_path):
    file = tmp_path / f"a.{ending}"
    stored(picture, orientation, file, **({"lossless": True} if ending == "webp" else {}))
    with Image.open(file) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    if ending != "jpg":
        assert np.array_equal(expected, picture)
    seen = look(file)
    assert (seen.exif, seen.upright) == (orientation, (TALL, WIDE))
    # an image of one row or column of pixels each, so that nothing is resampled
    whole = decode(file, None, (WIDE, WIDE), 1.0, Image.Resampling.NEAREST, seen.turn)
    top = (TALL - WIDE) // 2
    assert np.array_equal(whole, expected[top : top + WIDE])
    if importlib.util.find_spec("ultralytics"):
        from raybench.tasks.detection_pixels import _decoded

        found = _decoded(file, seen.turn)
        assert found.shape == expected.shape
        difference = np.abs(found[:, :, ::-1].astype(int) - expected)  # two decoders of JPEG round differently
        assert difference.max() <= (4 if ending == "jpg" else 0)


@pytest.mark.parametrize("orientation", [*TURN, 0, 9, "six", (6, 6)])
def test_arrays_turn_as_pictures_do_and_other_values_mean_upright(orientation, picture):
    expected = Image.fromarray(picture)
    expected = expected.transpose(TURN[orientation]) if orientation in TURN else expected
    assert np.array_equal(turned(picture, orientation), np.asarray(expected))


@needs_data
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="the detection extra is not installed")
def test_map_of_photos_that_are_stored_turned_is_that_of_the_upright_ones(tmp_path):
    from raybench.models.ultralytics import yolo
    from raybench.models.weights import load_weights
    from raybench.tasks.detection import Detection

    records = json.loads((DATA / "coco/annotations/instances_val2017.json").read_text())
    images = records["images"][:24]
    classes = {row["id"]: place for place, row in enumerate(sorted(records["categories"], key=lambda row: row["id"]))}
    roots = {"upright": tmp_path / "upright", "turned": tmp_path / "turned"}
    for root in roots.values():
        for part in ("images/train", "images/val", "labels/train", "labels/val"):
            (root / part).mkdir(parents=True)
        (root / "data.yaml").write_text("nc: 80\ntrain: images/train\nval: images/val\n")
    for place, row in enumerate(images):
        split = "train" if place < 2 else "val"
        pixels = np.asarray(Image.open(DATA / "coco/val2017" / row["file_name"]).convert("RGB"))
        tall, wide = pixels.shape[:2]
        lines = []
        for box in records["annotations"]:
            if box["image_id"] == row["id"] and not box["iscrowd"]:
                x, y, w, h = box["bbox"]
                label = classes[box["category_id"]]
                lines.append(f"{label} {(x + w / 2) / wide} {(y + h / 2) / tall} {w / wide} {h / tall}\n")
        for name, root in roots.items():
            for part in {split, "val"}:  # two of the 24 are trained on, too
                (root / "labels" / part / f"{place}.txt").write_text("".join(lines))
                file = root / "images" / part / f"{place}.jpg"
                stored(pixels, 6 if name == "turned" else 1, file, quality=95)
    found = {}
    torch.manual_seed(0)
    model = yolo(80, 3, 320, config="yolov8", scale="n")
    load_weights(model, WEIGHTS)
    for name, root in roots.items():
        data = open_dataset("yolo", {"image_size": 320, "val_share": 0.5}, root)
        found[name] = Detection(data, torch.device("cpu")).evaluate(model, "test")["mAP50-95"]
    print(found)
    assert found["upright"] > 25
    assert found["turned"] == pytest.approx(found["upright"], abs=0.7)
