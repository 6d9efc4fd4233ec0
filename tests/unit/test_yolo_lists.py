"""Splits of a data.yaml as lists: of folders, and text files that name images line by line, wherever they may lie."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from raybench.datasets.tree import warn_once
from raybench.errors import UserError
from raybench.storage.open import open_storage
from tests.unit.test_detection_data import yolo_folder
from tests.unit.test_own_labels import fresh, opened  # noqa: F401  # a fixture

BOTH = "names: [a, b]\ntrain: {}\nval: {}\n"


def images_of(split):
    return sorted(split.files)


@pytest.mark.parametrize(
    "lines",
    [
        "./images/train/0.png\n./images/train/2.png\n",
        "images/train/0.png\r\nimages/train/2.png\r\n\r\n",
        "\ufeffimages\\train\\0.png\n# a comment\nimages/train/./2.png\n",
        "{root}/images/train/0.png\n{root}/images/train/2.png",
    ],
    ids=["beside the list", "CRLF", "BOM, backslashes, a comment", "absolute"],
)
def test_a_text_file_lists_images(lines, tmp_path):
    root = yolo_folder(tmp_path / "y", yaml=BOTH.format("images/val", "val.txt"))
    (root / "val.txt").write_text(lines.format(root=root), newline="")
    data = opened(root)
    assert images_of(data.test) == ["0.png", "2.png"]
    assert data.test.folder == root / "images/train"
    assert data.test.boxes.tolist() == [[10, 5, 30, 15]] * 2


def test_lines_start_from_the_list_then_from_path(tmp_path):
    root = yolo_folder(tmp_path / "y", yaml="names: [a, b]\npath: .\ntrain: lists/train.txt\nval: lists/val.txt\n")
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_text("images/train/0.png\nimages/train/1.png\nimages/train/2.png\n")
    (root / "lists/val.txt").write_text("../images/val/0.png\n")
    data = opened(root)
    assert (len(data.train) + len(data.val), len(data.test)) == (3, 1)


def test_folders_and_lists_are_joined_each_image_once(tmp_path, caplog):
    yaml = "names: [a, b]\ntrain: [images/train, more.txt, images/train]\nval: [images/val]\ntest: images/more\n"
    root = yolo_folder(tmp_path / "y", yaml=yaml)
    for part in ("images", "labels"):
        (root / part / "more").mkdir()
    Image.new("RGB", (40, 20)).save(root / "images/more/7.png")
    (root / "labels/more/7.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (root / "more.txt").write_text("images/train/0.png\nimages/more/7.png\nimages/none.png\nimages/more/notes.md\n")
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match="1 image of test in train, too: figures"):
        data = opened(root)
    assert images_of(data.train) == ["more/7.png", "train/0.png", "train/1.png", "train/2.png"]
    assert data.train.classes.tolist() == [1, 0, 0, 0]
    assert "1 images named twice, taken once" in caplog.text
    assert "2 lines of more.txt that name no image file" in caplog.text
    assert len(data.training_on_all().train) == 4  # val is no part of train


def test_a_changed_list_or_label_is_read_again(tmp_path):
    root = yolo_folder(tmp_path / "y", yaml=BOTH.format("train.txt", "images/val"))
    storage = open_storage(str(tmp_path / "storage"))
    (root / "train.txt").write_text("images/train/0.png\nimages/train/1.png\n")

    def counts():
        from raybench.datasets.open import open_dataset

        data = open_dataset("yolo", {}, root).opened(storage)
        return len(data.train) + len(data.val), len(data.train.boxes) + len(data.val.boxes)

    assert counts() == counts() == (2, 2)
    (root / "labels/train/0.txt").write_text("0 .5 .5 .5 .5\n1 .2 .2 .1 .1\n")
    assert counts() == (2, 3)
    (root / "train.txt").write_text("images/train/0.png\nimages/train/1.png\nimages/train/2.png\n")
    assert counts() == (3, 4)


def test_labels_beside_the_images(tmp_path):
    root = yolo_folder(tmp_path / "y", yaml=BOTH.format("train", "val"))
    for split in ("train", "val"):
        (root / split).mkdir()
        for number in range(3):
            (root / "images" / split / f"{number}.png").rename(root / split / f"{number}.png")
            (root / "labels" / split / f"{number}.txt").rename(root / split / f"{number}.txt")
    data = opened(root)
    assert (len(data.test), len(data.test.boxes)) == (3, 3)
    for number in range(3):
        (root / "val" / f"{number}.txt").unlink()
    with pytest.raises(UserError, match=r"val: expected a folder below one called 'images', .* beside the images"):
        opened(root)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (BOTH.format("[]", "images/val"), "train is an empty list; expected one folder of images, a .txt file"),
        (BOTH.format("[images/train, 5]", "images/val"), r"train\[1\] is 5; expected one folder"),
        (BOTH.format("[images/train, images/none]", "images/val"), "train: found no folder .*images/none"),
        (BOTH.format("none.txt", "images/val"), "train: found no file .*none.txt"),
        (BOTH.format("lost.txt", "images/val"), r"lost\.txt: none of the images .* is there; found no .*images/x.png"),
        (BOTH.format("empty.txt", "images/val"), r"empty\.txt: found no image"),
        (BOTH.format("wide.txt", "images/val"), r"wide\.txt: found UTF-16 text; expected UTF-8"),
        ("nc: 0\ntrain: images/train\nval: images/val\n", "nc is 0; expected the number of classes"),
        ("nc: many\ntrain: images/train\nval: images/val\n", "nc is 'many'; expected the number of classes"),
        ("nc: 1000000000\ntrain: images/train\nval: images/val\n", "nc is 1000000000; expected"),
        ("names: person\ntrain: images/train\nval: images/val\n", "found names 'person'; expected a list"),
    ],
)  # fmt: skip
def test_lists_that_lead_nowhere_are_told(yaml, message, tmp_path):
    root = yolo_folder(tmp_path / "y", yaml=yaml)
    (root / "lost.txt").write_text("images/x.png\nimages/y.png\n")
    (root / "empty.txt").write_text("\n")
    (root / "wide.txt").write_bytes("images/train/0.png".encode("utf-16"))
    with pytest.raises(UserError, match=message):
        opened(root)


def test_the_number_of_classes_alone(tmp_path):
    warn_once.cache_clear()
    data = opened(yolo_folder(tmp_path / "y", yaml="nc: 2\ntrain: images/train\nval: images/val\n"))
    assert data.names == ("class_0", "class_1")
