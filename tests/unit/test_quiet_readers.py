"""What decoders and exporters say reaches nobody raw; what is wrong with a picture is said once, before training."""

from __future__ import annotations

import importlib.util
import logging
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from raybench.cli.main import plain_warnings
from raybench.datasets.image_files import look
from raybench.datasets.jpeg import read_head
from raybench.datasets.open import open_dataset
from raybench.datasets.tree import warn_once
from raybench.errors import StageError
from tests.unit.test_detection_data import yolo_folder

needs_detection = pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="no detection extra")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Nothing is remembered between tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    warn_once.cache_clear()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def large_png(side):
    """One bit a pixel, all black."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(((side + 7) // 8 + 1) * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_large_picture_is_named_once_and_pillow_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (64, 64), (number * 9, 0, 0)).save(folder / f"{number}.png")
    (tmp_path / "train/a/large.png").write_bytes(large_png(250))
    palette = Image.new("P", (64, 64))
    palette.save(tmp_path / "train/a/palette.png", transparency=b"\0\x80")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            data = open_dataset("imagefolder", {"image_size": 64}, tmp_path)
            everything = torch.arange(len(data.whole))
            assert len(next(iter(data.whole.batches([everything], torch.device("cpu"), None)))) == 8
    (said,) = [str(one.message) for one in found if "pixels" in str(one.message)]
    assert f"1 image of over 40,000 pixels ({tmp_path}/train/a/large.png): each takes seconds" in said
    assert not [one for one in found if "PIL" in one.filename]


@needs_detection
def test_decoders_in_c_print_nothing(tmp_path, capfd):
    from raybench.tasks.detection_pixels import read_bgr

    root = yolo_folder(tmp_path / "y")
    folder = root / "images/val"
    for number in (0, 1):
        (folder / f"{number}.png").unlink()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8)).save(folder / "0.jpg")
    whole = (folder / "0.jpg").read_bytes()
    (folder / "0.jpg").write_bytes(whole[:-2] + b"\x12" * 9 + whole[-2:])
    Image.new("RGB", (40, 20)).save(folder / "1.png", icc_profile=b"garbage" * 30, pnginfo=PngImagePlugin.PngInfo())
    test = open_dataset("yolo", {}, root).opened(None).test
    assert [read_bgr(test, number).shape for number in range(3)] == [(20, 40, 3)] * 3
    assert capfd.readouterr().err == ""


@needs_detection
@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_during_training_is_named(workers, tmp_path):
    from raybench.tasks.detection_images import PlainImages, TrainingImages

    root = yolo_folder(tmp_path / "y")
    test = open_dataset("yolo", {}, root).opened(None).test
    (root / "images/val/1.png").write_bytes(b"")
    with pytest.raises(StageError, match=r"^\S+1\.png: found no image; expected height and width \(20, 40\)$"):
        list(PlainImages(test, 64).batches(2, workers))
    training = TrainingImages(test, ["a", "b"], 64, {"mosaic": 0.0})
    with pytest.raises(StageError, match=r"^\S+1\.png: found no image"):
        list(training.batches([np.arange(3)], (0, 0), workers))


def test_warnings_of_libraries_are_not_printed(capsys, caplog):
    with plain_warnings(), warnings.catch_warnings(), caplog.at_level(logging.DEBUG, "raybench"):
        warnings.simplefilter("always")
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, Image.__file__, 1)
        assert capsys.readouterr().err == ""
        assert "Corrupt EXIF data" in caplog.text


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [(3, "H"), (4, "I")])
def test_an_orientation_of_two_or_four_bytes(order, kind, form, tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg")
    plain = (tmp_path / "a.jpg").read_bytes()
    value = struct.pack(f"{order}{form}", 6).ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    exif = b"Exif\0\0" + head + struct.pack(f"{order}HHHI", 1, 0x0112, kind, 1) + value + bytes(4)
    (tmp_path / "a.jpg").write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    with (tmp_path / "a.jpg").open("rb") as file:
        assert read_head(file).orientation == 6
    assert look(tmp_path / "a.jpg").upright == (40, 20)
