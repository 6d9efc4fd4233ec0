"""Labels as people have them: mistakes name file, line and what was expected; paths are found where they are meant."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from raybench.datasets.coco import read_instances
from raybench.datasets.open import open_dataset
from raybench.datasets.tree import warn_once
from raybench.errors import UserError
from raybench.tasks.detection_images import PlainImages
from raybench.tasks.detection_pixels import read_bgr
from tests.unit.test_detection_data import GOOD, box, coco_folder, yolo_folder

LINE = "0 0.5 0.5 0.5 0.5\n"


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Nothing is remembered between tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    warn_once.cache_clear()


def opened(root, **params):
    return open_dataset("yolo", params, root).opened(None)


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


LABELS = {
    "UTF-16": ("0 .5 .5 .1 .1".encode("utf-16"), r"1\.txt: found UTF-16 text; expected UTF-8"),
    "Latin-1": (b"0 .5 .5 .1 .1\n0 .5 .5 .1 \xe9", r"1\.txt:2: found a byte 0xe9, which is no UTF-8"),
    "binary": (b"\x00\x01\x02", r"1\.txt:1: found .*expected numbers"),
    "nan": (b"0 nan .5 .1 .1", r"1\.txt:1: found '0 nan .5 .1 .1'; expected finite numbers"),
    "inf": (b"0 .5 .5 inf .1", r"1\.txt:1: .*expected finite numbers"),
    "nan class": (b"nan .5 .5 .1 .1", r"1\.txt:1: .*expected finite numbers"),
    "inf class": (b"-inf .5 .5 .1 .1", r"1\.txt:1: .*expected finite numbers"),
    "beyond floats": (b"0 1e999 .5 .1 .1", r"1\.txt:1: .*expected finite numbers"),
    "a huge class": (b"1e300 .5 .5 .1 .1", r"1\.txt:1: class 1e\+300 is none of the 2"),
    "half a class": (b"0.5 .5 .5 .1 .1", r"1\.txt:1: class 0.5 is none"),
    "six": (b"\n0 .5 .5 .1 .1 .9", r"1\.txt:2: found 6 numbers; expected 5"),
    "a polygon that is cut": (b"0 .1 .1 .2 .2 .3 .3 .4", r"1\.txt:1: found 8 numbers"),
    "commas": (b"0,.5,.5,.1,.1", r"1\.txt:1: found '0,.5,.5,.1,.1'; expected numbers"),
    "a long line": (b"x" * 100_000, r"1\.txt:1: found 'x{77}\.\.\.'; expected numbers"),
    "a class alone": (b"0", r"1\.txt:1: found 1 number; expected 5"),
}


@pytest.mark.parametrize("case", LABELS)
def test_label_files_that_are_none(case, tmp_path):
    content, message = LABELS[case]
    root = yolo_folder(tmp_path / "y")
    (root / "labels" / "train" / "1.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        opened(root)


@pytest.mark.parametrize("make", ["folder", "dead link"])
def test_label_files_that_cannot_be_read(make, tmp_path):
    root = yolo_folder(tmp_path / "y")
    text = root / "labels" / "train" / "1.txt"
    text.unlink()
    if make == "folder":
        text.mkdir()
    else:
        text.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"1\.txt: can't be read"):
        opened(root)


def test_boxes_of_polygons_are_counted(tmp_path, caplog):
    root = yolo_folder(tmp_path / "y", "\ufeff1 .25 .5 .75 .25 .5 1\n0 0.5 0.5 0.5 0.5\n")
    with caplog.at_level(logging.WARNING):
        data = opened(root)
    assert data.test.boxes[:2].tolist() == [[10, 5, 30, 20], [10, 5, 30, 15]]
    assert data.test.classes[:2].tolist() == [1, 0]
    assert "3 polygons of which the enclosing box was taken" in caplog.text


def test_labels_belong_to_the_upright_photo(tmp_path, caplog):
    root = yolo_folder(tmp_path / "y", "0 0.25 0.5 0.5 1\n")
    draw = np.random.default_rng(0)
    photos = [Image.fromarray(draw.integers(0, 255, (20, 40, 3), dtype=np.uint8)) for _ in range(3)]
    for number, (photo, turn) in enumerate(zip(photos, (1, 6, 3), strict=True)):
        stored = (
            photo.transpose({1: 0, 6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}[turn])
            if turn != 1
            else photo
        )
        stored.save(root / "images" / "val" / f"{number}.png", exif=oriented(turn))
    with caplog.at_level(logging.WARNING):
        test = opened(root).test
    assert "2 images turned upright by their EXIF orientation" in caplog.text
    assert test.sizes.tolist() == [[20, 40]] * 3
    for number, photo in enumerate(photos):
        assert test.boxes[number].tolist() == [0, 0, 20, 20]
        assert np.array_equal(read_bgr(test, number)[:, :, ::-1], np.asarray(photo))
    chosen = test.chosen([2, 1])
    assert np.array_equal(read_bgr(chosen, 1)[:, :, ::-1], np.asarray(photos[1]))
    assert PlainImages(test, 64)[1][1].shape == (3, 32, 64)
    test.save(tmp_path, "again")
    assert type(test).load(tmp_path, "again", test.folder).turns.tolist() == [1, 6, 3]


@pytest.mark.parametrize("ending", ["tif", "pgm", "gif", "jfif", "ppm"])
def test_images_of_every_ending_in_subfolders_are_read(ending, tmp_path):
    root = yolo_folder(tmp_path / "y")
    for kind in ("images", "labels"):
        (root / kind / "val" / "deep").mkdir()
    Image.new("L" if ending == "pgm" else "RGB", (40, 20), 200).save(root / "images" / "val" / "deep" / f"9.{ending}")
    (root / "labels" / "val" / "deep" / "9.txt").write_text(LINE)
    test = opened(root).test
    assert test.files == ("0.png", "1.png", "2.png", f"deep/9.{ending}")
    assert len(test.boxes) == 4
    assert read_bgr(test, 3).shape == (20, 40, 3)


def test_broken_and_unused_files_are_counted_and_named(tmp_path, caplog):
    root = yolo_folder(tmp_path / "y")
    folder = root / "images" / "val"
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[:-20])
    (folder / "phone.jpg").write_bytes(b"")
    (folder / "notes.md").write_text("x")
    (folder / "._0.png").write_text("x")
    Image.new("RGB", (40, 20)).save(folder / "2.jpg")
    (folder / "2.png").unlink()
    (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes() + bytes(200))
    (root / "labels" / "val" / "77.txt").write_text(LINE)
    with caplog.at_level(logging.WARNING):
        assert opened(root).test.files == ("0.png", "2.jpg")
    for part in (
        "2 broken image files left out (1.png: ",
        "phone.jpg: empty",
        "1 .md files, not used",
        "1 text files wi",
    ):
        assert part in caplog.text


YAMLS = {
    "a leading ../ too much": "names: [a, b]\ntrain: ../images/train\nval: ../images/val\n",
    "backslashes": "names: [a, b]\ntrain: images\\train\nval: images\\val\n",
    "a variable": "names: [a, b]\ntrain: $DATA_OF_MINE/images/train\nval: ${DATA_OF_MINE}/images/val\n",
    "a variable in path": "names: [a, b]\npath: $DATA_OF_MINE\ntrain: images/train\nval: images/val\n",
    "home": "names: [a, b]\npath: ~/y\ntrain: images/train\nval: images/val\n",
    "keys as numbers": "names: {0: a, 1: b}\ntrain: images/train\nval: images/val\n",
}


@pytest.mark.parametrize("case", YAMLS)
def test_paths_are_found_where_people_mean_them(case, tmp_path, monkeypatch):
    root = yolo_folder(tmp_path / "y", yaml=YAMLS[case])
    monkeypatch.setenv("DATA_OF_MINE", str(root))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(opened(root).test) == 3


def test_a_path_that_is_not_there_is_told(tmp_path):
    yaml = "names: [a, b]\npath: ../datasets/mine\ntrain: images/train\nval: images/{}\n"
    with pytest.warns(UserWarning, match=r"path: found no folder \.\./datasets/mine; train was found beside the YAML"):
        opened(yolo_folder(tmp_path / "y", yaml=yaml.format("val")))
    (tmp_path / "y" / "data.yaml").write_text(yaml.format("none"))
    with pytest.raises(UserError, match=r"val: found no folder .*datasets/mine/images/none, nor .*y/images/none"):
        opened(tmp_path / "y")
    (tmp_path / "y" / "data.yaml").write_text("names: [a, b]\ntrain: images/train/0.png\nval: images/val\n")
    with pytest.raises(UserError, match=r"train: .*0\.png is a file; expected one folder"):
        opened(tmp_path / "y")


def test_splits_that_share_a_folder(tmp_path, caplog):
    with pytest.warns(UserWarning, match="train and val are the same folder .*trained on"):
        opened(yolo_folder(tmp_path / "y", yaml="names: [a, b]\ntrain: images/val\nval: images/val\n"))
    root = yolo_folder(tmp_path / "z", yaml="names: [a, b]\ntrain: images\nval: images/val\n")
    with caplog.at_level(logging.WARNING):
        data = opened(root, val_share=0.4)
    assert {*data.train.files, *data.val.files} == {f"train/{i}.png" for i in range(3)}  # not those of val
    assert "text files without an image" not in caplog.text


def deep(levels=100_000):
    return "[" * levels + "]" * levels


JSONS = {
    "UTF-16": ("{}".encode("utf-16"), "not JSON: byte 0 is no UTF-8"),
    "Latin-1": (b'{"images": "\xe9"}', "not JSON: byte 12"),
    "deep": (deep().encode(), "nested too deeply"),
    "digits": (b'{"images": ' + b"9" * 5000 + b"}", "not JSON: .*digits"),
    "a number": (b"7", "found no list 'images'"),
    "empty": (b"", "not JSON"),
}
RECORDS = {
    "ids of two types": ({"categories": [{"id": 1, "name": "a"}, {"id": "2", "name": "b"}]},
                         r"categories\[1\] has id '2'; expected ids of one type, as categories\[0\] has 1"),
    "an id that is none": ({"categories": [{"id": None, "name": "a"}]}, r"categories\[0\] has id None"),
    "a list as id": ({"images": [{"id": [1], "file_name": "1.jpg"}]}, r"images\[0\] has id \[1\]"),
    "text for a number": ({"annotations": [box("1", 1, 1, 1, 5, 5)]},
                          r"annotations\[0\] has image_id '1'; expected whole numbers, as the ids in 'images' are"),
    "a category as text": ({"annotations": [box(1, "1", 1, 1, 5, 5)]}, r"annotations\[0\] has category_id '1'"),
    "a category as list": ({"annotations": [box(1, [1], 1, 1, 5, 5)]}, r"annotations\[0\] has category_id \[1\]"),
    "no name": ({"images": [{"id": 1, "file_name": None}]}, r"images\[0\] has file_name None; expected a file's name"),
    "a flag in a box": ({"annotations": [box(1, 1, True, 1, 5, 5)]}, r"annotations\[0\]: bbox is \[True, 1, 5, 5\]"),
    "text for a crowd": ({"annotations": [box(1, 1, 1, 1, 5, 5) | {"iscrowd": "0"}]},
                         r"annotations\[0\]: iscrowd is '0'; expected 0 or 1"),
    "text in a box": ({"annotations": [box(1, 1, "1", 1, 5, 5)]}, r"annotations\[0\]: bbox is \['1'"),
    "folders": ({"images": [{"id": 1, "file_name": "val2017/1.jpg"}]},
                r"file names carry a folder: images\[0\] is 'val2017/1.jpg', but 1.jpg lies in"),
    "backslashes": ({"images": [{"id": 1, "file_name": "data\\1.jpg"}]}, r"file names carry a folder"),
    "impossible names": ({"images": [{"id": 1, "file_name": "x" * 5000}, {"id": 2, "file_name": "\0"}]},
                         r"none of the images that it lists \(2\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", JSONS)
def test_json_that_is_none(case, tmp_path):
    content, message = JSONS[case]
    root = coco_folder(tmp_path / "c", GOOD)
    (root / "annotations" / "instances_val2017.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"instances_val2017\.json: .*{message}"):
        open_dataset("coco", {}, root).opened(None)


@pytest.mark.parametrize("case", RECORDS)
def test_records_that_are_none(case, tmp_path):
    change, message = RECORDS[case]
    root = coco_folder(tmp_path / "c", GOOD, more=change)
    with pytest.raises(UserError, match=rf"instances_.*\.json: .*{message}"):
        open_dataset("coco", {}, root).opened(None)


def test_a_box_of_huge_numbers_is_counted(tmp_path, caplog):
    root = coco_folder(tmp_path / "c", [*GOOD, box(1, 1, 10**400, 1, 5, 5), box(1, 1, 1, 1, float("inf"), 5)])
    with caplog.at_level(logging.WARNING):
        open_dataset("coco", {}, root).opened(None)
    assert "2 boxes of zero, negative or unknown size" in caplog.text


@pytest.mark.parametrize(("recorded", "turn", "size"), [((40, 30), 1, [30, 40]), ((30, 40), 6, [40, 30])])
def test_coco_records_say_whether_photos_are_turned(recorded, turn, size, tmp_path):
    """A file of 40 x 30 with orientation 6, and a square one, which follows it."""
    Image.new("RGB", (40, 30)).save(tmp_path / "1.jpg", exif=oriented(6))
    Image.new("RGB", (20, 20)).save(tmp_path / "2.jpg", exif=oriented(3))
    width, height = recorded
    images = [
        {"id": 1, "file_name": "1.jpg", "width": width, "height": height},
        {"id": 2, "file_name": "2.jpg", "width": 20, "height": 20},
    ]
    found = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": [box(1, 1, 1, 1, 9, 9)]}
    read = read_instances(json.loads(json.dumps(found)), "x.json", tmp_path).images
    assert read.turns.tolist() == [turn, 3 if turn == 6 else 1]
    assert read.sizes[0].tolist() == size


def test_the_check_swallows_no_error_of_a_reader(tmp_path, monkeypatch):
    from raybench.tasks import open as tasks_open

    trial = SimpleNamespace(
        dataset="yolo",
        task="detection",
        dataset_fingerprint=None,
        dataset_params={},
        protocol="raybench",
        image_size=None,
    )
    root = yolo_folder(tmp_path / "y")
    monkeypatch.setattr("raybench.datasets.yolo_split.boxes_of", lambda *_: 1 / 0)
    with pytest.raises(UserError, match=rf"dataset 'yolo': {root}: reading it failed with ZeroDivisionError"):
        tasks_open.open_task(trial, {"yolo": root}, torch.device("cpu"))
