"""COCO, YOLO and pasted digits: every box checked, every oddity told, labels read once a sweep."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from raybench.datasets.coco import read_instances
from raybench.datasets.open import open_dataset
from raybench.errors import UserError
from raybench.storage.local import LocalStorage
from tests.coco_instances import as_instances


def box(image, category, *numbers, **more):
    return {"image_id": image, "category_id": category, "bbox": list(numbers), **more}


def coco_folder(root, annotations, *, images=4, more=None, categories=((1, "cat"), (90, "dog"))):
    """A COCO folder of `images` pictures of 40 x 30 in both splits; `annotations` go to both."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        records = []
        for number in range(1, images + 1):
            mode = "L" if number == 2 else "RGB"  # one grey picture
            Image.new(mode, (40, 30), 100).save(root / split / f"{number}.jpg")
            records.append({"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30})
        content = {
            "images": records,
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in categories],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content | (more or {})))
    return root


GOOD = [box(i, 1, 1, 2, 10, 10) for i in range(1, 5)]


def test_categories_with_gaps_crowds_empty_and_grey_images(tmp_path):
    root = coco_folder(
        tmp_path / "c", [box(1, 90, 5, 6, 20, 10), box(1, 1, 0, 0, 40, 30, iscrowd=1), box(2, 1, 1, 1, 8, 8)]
    )
    data = open_dataset("coco", {"val_share": 0.5, "split_seed": 3, "image_size": 64}, root)
    test = data.splits[1].read()
    assert test.names == ("cat", "dog")
    assert test.images.boxes_of(0) == slice(0, 2)
    assert test.images.classes.tolist() == [1, 0, 0]
    assert test.images.crowd.tolist() == [False, True, False]
    assert test.images.boxes[0].tolist() == [5, 6, 25, 16]
    assert np.diff(test.images.first).tolist() == [2, 1, 0, 0]


def test_boxes_that_are_none_are_counted(tmp_path, caplog):
    odd = [
        box(1, 1, 35, 25, 20, 20),  # sticks out: cut
        box(1, 1, 50, 50, 5, 5),  # outside
        box(1, 1, 3, 3, 0, 5),  # no width
        box(1, 1, 3, 3, float("nan"), 5),
        box(1, 1, 1, 2, 10, 10),  # twice, with the one in GOOD
        box(77, 1, 1, 1, 5, 5),  # no such image
    ]
    root = coco_folder(tmp_path / "c", GOOD + odd)
    (root / "val2017" / "3.jpg").write_bytes(b"broken")
    (root / "val2017" / "4.jpg").unlink()
    Image.new("RGB", (5, 5)).save(root / "val2017" / "stranger.jpg")
    source = open_dataset("coco", {}, root)
    with caplog.at_level(logging.WARNING):
        images = source.splits[1].read().images
    assert images.files == ("1.jpg", "2.jpg")
    assert images.boxes[:2].tolist() == [[1, 2, 11, 12], [35, 25, 40, 30]]
    for message in (
        "1 boxes cut at the border", "1 boxes outside their image", "2 boxes of zero, negative or unknown size",
        "1 boxes that were there twice", "1 boxes of an image without a record", "1 broken image files left out",
        "1 images of the JSON not found", "1 image files without a record",
    ):  # fmt: skip
        assert message in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [box(1, 7, 1, 1, 5, 5)]}, r"annotations\[0\] has category_id 7, which `categories` doesn't"),
        ({"annotations": [box(1, 1, 1, 1, 5)]}, r"bbox is \[1, 1, 5\]; expected \[x, y, width, height\]"),
        ({"annotations": [{"image_id": 1, "category_id": 1}]}, r"annotations\[0\] has no 'bbox'"),
        ({"annotations": None}, "found no list 'annotations'"),
        ({"annotations": [], "images": []}, r"none of the images that it lists \(0\)"),
        ({"categories": []}, "`categories` is empty"),
        ({"annotations": []}, "without a single box"),
    ],
)
def test_another_schema_is_told(tmp_path, change, message):
    root = coco_folder(tmp_path / "c", GOOD, more=change)
    with pytest.raises(UserError, match=message):
        open_dataset("coco", {}, root).opened(None)


def test_results_instead_of_instances_and_missing_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"detection \*results\*"):
        read_instances([], "x.json", tmp_path)
    with pytest.raises(UserError, match=r"found no .*instances_train2017\.json"):
        open_dataset("coco", {}, tmp_path)
    root = coco_folder(tmp_path / "c", GOOD)
    (root / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        open_dataset("coco", {}, root).opened(None)


def test_labels_are_read_once_and_lie_in_the_sweeps_storage(tmp_path, monkeypatch):
    root = coco_folder(tmp_path / "c", GOOD)
    before = sorted(root.rglob("*"))
    storage = LocalStorage(tmp_path / "s")
    first = open_dataset("coco", {}, root).opened(storage)
    monkeypatch.setattr("raybench.datasets.coco.read_instances", None)  # a second reading would fail
    again = open_dataset("coco", {}, root).opened(storage)
    assert again.names == first.names
    for name in ("files", "folder"):
        assert getattr(again.test, name) == getattr(first.test, name)
    assert np.array_equal(again.test.boxes, first.test.boxes)
    assert sorted(root.rglob("*")) == before  # nothing was left beside the user's data
    (root / "val2017" / "1.jpg").unlink()
    with pytest.raises(TypeError):  # other data: read again
        open_dataset("coco", {}, root).opened(storage)


def yolo_folder(root, lines="0 0.5 0.5 0.5 0.5\n", yaml="names: [cat, dog]\ntrain: images/train\nval: images/val\n"):
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 20)).save(root / "images" / split / f"{number}.png")
            (root / "labels" / split / f"{number}.txt").write_text(lines)
    (root / "data.yaml").write_text(yaml)
    return root


def test_a_yolo_folder_by_its_yaml(tmp_path):
    data = open_dataset("yolo", {"image_size": 64}, yolo_folder(tmp_path / "y")).opened(None)
    assert (data.facts.classes, data.names) == (2, ("cat", "dog"))
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [2, 1, 3]
    assert data.test.boxes[0].tolist() == [10, 5, 30, 15]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("5 .5 .5 .1 .1", "0.txt:1: class 5 is none of the 2"),
        ("0 20 10 5 5", "expected shares of the image"),
        ("0 .5 .5 .1", "found 4 numbers; expected 5"),
        ("cat .5 .5 .1 .1", "expected numbers"),
    ],
)
def test_a_line_that_is_no_box_is_told(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        open_dataset("yolo", {}, yolo_folder(tmp_path / "y", lines)).opened(None)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\nval: images/val\n", "found no names"),
        ("names: [a]\nnc: 3\ntrain: images/train\nval: images/val\n", "nc is 3; found 1 name$"),
        ("names: [a]\ntrain: images/train\n", "val is None"),
        ("names: [a]\ntrain: images/train\nval: images/none\n", "val: found no folder"),
        ("names: {1: a}\ntrain: images/train\nval: images/val\n", "expected 0 to 0"),
    ],
)
def test_a_yaml_that_lacks_something_is_told(tmp_path, yaml, message):
    with pytest.raises(UserError, match=message):
        open_dataset("yolo", {}, yolo_folder(tmp_path / "y", yaml=yaml))


def test_digits_are_the_same_every_time_and_survive_cocos_format(tmp_path):
    few = {"train": 6, "val": 4, "test": 5}
    one, other = (open_dataset("digits-detection", few, None) for _ in range(2))
    assert np.array_equal(one.train.pixels[3], other.train.pixels[3])
    assert np.array_equal(one.train.boxes, other.train.boxes)
    assert not np.array_equal(one.train.pixels[0], one.test.pixels[0])
    assert one.train.pixels[0].shape == (96, 96, 3)
    for file, pixels in zip(one.test.files, one.test.pixels, strict=True):
        Image.fromarray(pixels).save(tmp_path / file)
    read = read_instances(as_instances(one.test, one.names), "digits", tmp_path)
    assert np.array_equal(read.images.boxes, one.test.boxes)
    assert np.array_equal(read.images.classes, one.test.classes)
    for i in range(len(one.test)):  # a box is where the ink is
        for x1, y1, x2, y2 in one.test.boxes[one.test.boxes_of(i)].astype(int):
            assert one.test.pixels[i][y1:y2, x1:x2].max() > 150
