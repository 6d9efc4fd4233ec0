"""Detection reads its files by way of the cache of decoded pictures: the same bytes, decoded once."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench.datasets.boxes import BoxImages
from raybench.datasets.picture_cache import SIZE_GIB
from raybench.errors import StageError
from raybench.tasks import detection_pixels
from raybench.tasks.detection_images import PlainImages, TrainingImages

SHAPES = ((40, 30), (64, 48), (20, 64), (96, 96), (33, 33))
AUGMENT = {"mosaic": 1.0, "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "scale": 0.5, "fliplr": 0.5, "mixup": 0.5}


@pytest.fixture
def photos(tmp_path):
    """Noise as JPEG, TIFF and PNG, in several shapes; the third is stored turned."""
    random, files = np.random.default_rng(0), []
    for number, (height, width) in enumerate(SHAPES):
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 2 else 1
        stored = (width, height) if number == 2 else (height, width)
        files.append(f"{number}.{('jpg', 'tif', 'jpg', 'png', 'jpg')[number]}")
        Image.fromarray(random.integers(0, 256, (*stored, 3), np.uint8)).save(tmp_path / files[-1], exif=exif)
    count, turns = len(SHAPES), np.array([1, 1, 6, 1, 1])
    boxes = np.tile([2.0, 2, 18, 18], (count, 1))
    return BoxImages(
        tuple(files), np.array(SHAPES), np.arange(count + 1), boxes, np.zeros(count, np.int64), np.zeros(count, bool),
        turns, tmp_path,
    )  # fmt: skip


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """Call it to turn the cache on, in a folder of its own, which it returns."""

    def on():
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv(SIZE_GIB, "1")
        return tmp_path / "cache" / "raybench" / "pictures"

    return on


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, as a list that grows."""
    seen, inner = [], detection_pixels._decoded
    monkeypatch.setattr(detection_pixels, "_decoded", lambda file, *more: seen.append(file.name) or inner(file, *more))
    return seen


def trained(images, size=64, *, stretched=False):
    """Augmented batches of two epochs."""
    found = TrainingImages(images, ["a"], size, AUGMENT, stretched=stretched)
    order = [np.arange(3), np.arange(3, len(images))]
    return [batch[name].numpy() for e in (0, 1) for batch in found.batches(order, (0, e), 0)
            for name in ("img", "cls", "bboxes")]  # fmt: skip


def plain(images, **how):
    return [PlainImages(images, 64, **how)[number][1] for number in range(len(images))]


READERS = {
    "training": trained,
    "training, stretched": lambda images: trained(images, stretched=True),
    "training, as large as a file": lambda images: trained(images, 96),
    "evaluation": plain,
    "evaluation, stretched": lambda images: plain(images, stretched=True),
    "calibration": lambda images: plain(images, square=True),
}


@pytest.mark.parametrize("reader", READERS)
def test_pictures_are_the_same_bytes_and_are_decoded_once(reader, photos, cached, decoded) -> None:
    without = READERS[reader](photos)
    cached()
    decoded.clear()
    runs = [READERS[reader](photos) for _ in range(2)]  # the first fills the cache
    assert sorted(decoded) == sorted(photos.files)
    for found in runs:
        assert len(found) == len(without)
        assert all(np.array_equal(a, b) for a, b in zip(found, without, strict=True))


def test_readers_share_the_folder_without_taking_each_others_pictures(photos, cached) -> None:
    without = [READERS[reader](photos) for reader in READERS]
    cached()
    for _ in range(2):
        for reader, expected in zip(READERS, without, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(READERS[reader](photos), expected, strict=True))


def test_a_file_that_changes_is_decoded_anew_and_a_damaged_picture_too(photos, cached, decoded) -> None:
    folder = cached()
    before = plain(photos)
    Image.fromarray(np.full((33, 33, 3), 7, np.uint8)).save(photos.folder / "4.jpg")
    decoded.clear()
    after = plain(photos)
    assert decoded == ["4.jpg"]
    assert all(np.array_equal(a, b) for a, b in zip(before[:4], after, strict=False))
    assert not np.array_equal(before[4], after[4])
    for file in folder.rglob("*.rgb"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    decoded.clear()
    again = plain(photos)
    assert sorted(decoded) == sorted(photos.files)
    assert all(np.array_equal(a, b) for a, b in zip(again, after, strict=True))


def test_broken_and_missing_files_are_named_with_the_cache_as_without(photos, cached) -> None:
    cached()
    plain(photos)
    (photos.folder / "0.jpg").write_bytes(b"none")
    (photos.folder / "3.png").unlink()
    photos.sizes[4] = (32, 32)
    for number, problem in ((0, "no image"), (3, "no image"), (4, r"an image of \(33, 33\)")):
        with pytest.raises(StageError, match=rf"{number}\.\w+: found {problem}; expected height and width"):
            PlainImages(photos, 64)[number]


def test_a_file_that_is_another_kind_by_its_name_has_a_picture_of_its_own(photos, cached, decoded) -> None:
    cached()
    plain(photos)
    (photos.folder / "5.tif").write_bytes((photos.folder / "4.jpg").read_bytes())
    renamed = photos.chosen([4])
    renamed = BoxImages(("5.tif",), renamed.sizes, renamed.first, renamed.boxes, renamed.classes, renamed.crowd,
                        folder=photos.folder)  # fmt: skip
    decoded.clear()
    plain(renamed)
    assert decoded == ["5.tif"]
