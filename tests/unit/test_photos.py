"""Photos as phones, cameras and tools leave them: turned, deep, damaged, linked; whatever isn't used is counted."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from raybench.datasets.files import list_classes
from raybench.datasets.image_files import as_rgb, look, look_at_all, turned
from raybench.datasets.open import open_dataset
from raybench.datasets.tree import warn_once
from raybench.errors import UserError

CPU = torch.device("cpu")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 36, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Nothing is remembered between tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    list_classes.cache_clear()
    warn_once.cache_clear()


@pytest.fixture
def tree(tmp_path):
    """Class folders of PNG files."""
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / "t" / split / name).mkdir(parents=True)
            for number in range(4):
                PICTURE.save(tmp_path / "t" / split / name / f"{number}.png")
    return tmp_path / "t"


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pixels_of(images) -> torch.Tensor:
    return torch.cat(list(images.batches(torch.arange(len(images)).split(8), CPU, None)))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format_is_upright_for_both_tasks(ending, orientation, tmp_path):
    from raybench.tasks.detection_pixels import _decoded

    file = tmp_path / f"x.{ending}"
    PICTURE.save(file, exif=oriented(orientation), **({"lossless": True} if ending == "webp" else {}))
    seen = look(file)
    with Image.open(file) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    with Image.open(file) as image:
        assert np.array_equal(np.asarray(as_rgb(image, seen.turn)), upright)
    assert (seen.exif, seen.upright) == (orientation, upright.shape[:2])
    found = _decoded(file, seen.turn)[:, :, ::-1].astype(int)
    assert np.abs(found - upright).max() <= 3  # two JPEG decoders


def test_arrays_are_turned_as_pictures_are():
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for orientation in range(1, 9):
        file = Image.fromarray(values)
        file.getexif()[0x0112] = orientation
        assert np.array_equal(turned(values, orientation), np.asarray(ImageOps.exif_transpose(file)))


def test_a_turned_photo_gives_the_pixels_of_the_upright_one_and_is_counted(tree):
    upright = pixels_of(open_dataset("imagefolder", {"image_size": 24}, tree).test)
    for file in (tree / "val").rglob("*.png"):
        with Image.open(file) as image:
            stored = image.transpose(Image.Transpose.ROTATE_90)
        stored.save(file, exif=oriented(6))
    list_classes.cache_clear()
    with pytest.warns(UserWarning, match="8 images turned upright by their EXIF orientation"):
        data = open_dataset("imagefolder", {"image_size": 24}, tree)
    assert torch.equal(pixels_of(data.test), upright)


def test_published_class_folders_are_read_as_stored(tree):
    Image.new("RGB", (20, 40)).save(tree / "val" / "ant" / "0.jpg", exif=oriented(6))
    assert set(list_classes(tree / "val", "imagenet", 0.0, as_stored=True).turns) == {1}
    assert set(list_classes(tree / "val", "imagefolder", 0.0).turns) == {1, 6}


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_grey_of_16_bits_is_scaled_by_its_range(ending, tree):
    values = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    Image.fromarray(values).save(tree / "val" / "ant" / f"4.{ending}")
    with pytest.warns(UserWarning, match="1 image of more than 8 bits of grey scaled to 8"):
        data = open_dataset("imagefolder", {"image_size": 24}, tree)
    found = pixels_of(data.test)[4, 0] * 255
    assert np.abs(found.numpy() - values / 257).max() <= 0.5


@pytest.mark.parametrize("ending", ["tif", "tiff", "pgm", "ppm", "gif", "jfif", "jpe", "bmp", "avif"])
def test_every_ending_that_pillow_reads_is_read(ending, tree):
    if f".{ending}" not in Image.registered_extensions():
        pytest.skip(f"Pillow without {ending}")
    PICTURE.save(tree / "val" / "ant" / f"4.{ending}")
    assert len(open_dataset("imagefolder", {}, tree).test) == 9


def test_what_is_not_used_is_counted_in_one_line(tree):
    (tree / "train" / "ant" / "notes.txt").write_text("x")
    for number in range(2):
        (tree / "val" / "bee" / f"{number}.heic").write_bytes(b"x")
    PICTURE.save(tree / "train" / "loose.png")
    with pytest.warns(UserWarning, match="not used") as warned:
        open_dataset("imagefolder", {"image_size": 24}, tree)
    lines = [str(one.message) for one in warned]
    assert len(lines) == 1
    for part in ("2 .heic files", "1 .txt files", "1 files beside the class folders"):
        assert part in lines[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset("imagefolder", {"image_size": 24}, tree)  # a later stage says nothing again


def test_a_class_of_files_that_cannot_be_read_is_told_with_their_ending(tree):
    for file in (tree / "val" / "bee").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(UserError, match=r"no readable image in class bee of .*found 4 \.heic files"):
        open_dataset("imagefolder", {}, tree)


def test_linked_folders_are_read_and_those_of_tools_are_not(tree, tmp_path):
    (tmp_path / "more").mkdir()
    PICTURE.save(tmp_path / "more" / "a.png")
    (tree / "train" / "ant" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "round").symlink_to(tmp_path / "more")  # a circle
    for tool in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "train/.ipynb_checkpoints", "val/ant/.thumbs"):
        (tree / tool).mkdir()
        PICTURE.save(tree / tool / "0.png")
    (tree / "train" / "bee" / "._0.png").write_bytes(b"what macOS writes beside a file")
    data = open_dataset("imagefolder", {}, tree)
    assert (data.facts.classes, len(data.whole), len(data.test)) == (2, 9, 8)


def test_train_and_val_on_one_folder_is_told(tree):
    for file in (tree / "val").rglob("*.png"):
        file.unlink()
    for folder in (tree / "val" / "ant", tree / "val" / "bee", tree / "val"):
        folder.rmdir()
    (tree / "val").symlink_to(tree / "train")
    with pytest.warns(UserWarning, match=r"train and val are the same folder .*measured on images that were trained"):
        open_dataset("imagefolder", {}, tree)


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


def encoded(ending: str, **more) -> bytes:
    import io

    target = io.BytesIO()
    PICTURE.save(target, Image.registered_extensions()[f".{ending}"], **more)
    return target.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


WHOLE = {
    "zeros behind it.jpg": lambda: encoded("jpg") + bytes(200),
    "kilobytes behind it.jpg": lambda: encoded("jpg") + bytes(50_000),
    "progressive.jpg": lambda: encoded("jpg", progressive=True),
    "a long head.jpg": lambda: encoded("jpg", icc_profile=bytes(200_000)),
    "a png.jpg": lambda: encoded("png"),
    "behind.png": lambda: encoded("png") + b"more",
}
BROKEN = {
    "cut.jpg": lambda: encoded("jpg")[:-100],
    "cut in its thumbnail.jpg": lambda: encoded("jpg")[:30] + b"\xff\xd9",
    "cut.png": lambda: encoded("png")[:-40],
    "checksum.png": lambda: flipped(encoded("png"), 200),
    "cut.gif": lambda: encoded("gif")[:300],
    "cut.bmp": lambda: encoded("bmp")[:300],
    "cut.webp": lambda: encoded("webp")[:60],
    "empty.jpg": lambda: b"",
    "page.png": lambda: b"<html>not found</html>",
    "bomb.png": bomb,
}


@pytest.mark.parametrize("name", WHOLE)
def test_one_rule_for_whole_files(name, tmp_path):
    (tmp_path / name).write_bytes(WHOLE[name]())
    assert not look(tmp_path / name).problem


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_found_at_the_check(name, tree):
    (tree / "train" / "ant" / name).write_bytes(BROKEN[name]())
    with pytest.warns(UserWarning, match=rf"1 of 9 images can't be read: .*{name}; they are left out \(\w.*\)"):
        data = open_dataset("imagefolder", {"max_unreadable": 0.2}, tree)
    assert len(data.whole) == 8
    if name == "bomb.png":
        list_classes.cache_clear()
        with pytest.raises(UserError, match="more than 178,956,970 pixels"):
            open_dataset("imagefolder", {}, tree)


def test_what_was_decoded_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    from raybench.datasets import image_files

    folder = tmp_path / "f"
    folder.mkdir()
    files = [folder / "a.png", folder / "b.jpg"]
    for file in files:
        PICTURE.save(file)
    calls: list[Path] = []
    monkeypatch.setattr(
        image_files, "_decoded", lambda file, real=image_files._decoded: calls.append(file) or real(file)
    )
    first = look_at_all(files, folder)
    assert calls == [files[0]]  # a JPEG's head and end are enough
    assert look_at_all(files, folder) == first
    assert len(calls) == 1
    files[0].write_bytes(files[0].read_bytes()[:-40])
    assert look_at_all(files, folder)[0].problem
