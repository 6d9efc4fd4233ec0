"""The cache of decoded pictures: the same bytes, the bound, damage, full disks, several processes and threads."""

import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from raybench.datasets import files, picture_cache, transfer
from raybench.datasets.files import FileImages, list_classes
from raybench.datasets.picture_cache import SIZE_GIB, PictureCache, pictures, tidied
from raybench.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """The cache is on, in a folder of its own; returns that folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(SIZE_GIB, "1")
    return tmp_path / "cache" / "raybench" / "pictures"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders with noise as JPEG and PNG, of several sizes, one of them turned."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label in ("cat", "dog"):
        (root / label).mkdir()
        for number, (height, width) in enumerate([(40, 30), (25, 60), (12, 12)]):
            image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
            exif = Image.Exif()
            exif[0x0112] = 6 if number == 1 else 1
            image.save(root / label / f"{number}.jpg", exif=exif)
            image.convert("L").save(root / label / f"{number}.png")
    return root


def images_of(root):
    return FileImages(list_classes(root, "x", 0.0), (16, 20))


def epoch(images, draws):
    order = torch.arange(len(images)).split(5)
    crops = [torch.rand(len(one), 4, generator=torch.Generator().manual_seed(draws)) for one in order]
    return torch.cat(list(images.batches(order, CPU, crops if draws else None)))


def made(monkeypatch):
    """How often files were decoded from now on, as a list that grows."""
    seen, inner = [], files._upright
    monkeypatch.setattr(files, "_upright", lambda file, turn: seen.append(file) or inner(file, turn))
    return seen


@pytest.mark.parametrize("draws", [0, 1])
def test_pictures_are_the_same_bytes_and_are_decoded_once(draws, photos, cached, monkeypatch):
    images = images_of(photos)
    monkeypatch.setenv(SIZE_GIB, "0")
    plain = epoch(images, draws)
    assert not cached.exists()
    monkeypatch.setenv(SIZE_GIB, "1")
    first, seen = epoch(images, draws), made(monkeypatch)
    assert torch.equal(first, plain)
    assert torch.equal(epoch(images, draws), plain)
    assert seen == []
    assert len(list(cached.rglob("*.rgb"))) == 12


def test_other_draws_take_the_same_pictures_and_another_size_does_not(photos, cached, monkeypatch):
    images = images_of(photos)
    epoch(images, 1)
    seen = made(monkeypatch)
    assert not torch.equal(epoch(images, 2), epoch(images, 1))
    assert seen == []
    epoch(FileImages(list_classes(photos, "x", 0.0), (8, 8)), 0)
    assert len(seen) == 12


def test_a_file_that_changes_is_decoded_anew_and_a_copy_is_not(tmp_path, cached, monkeypatch):
    cache, made_of = PictureCache(cached, 1e9), []

    def make(data):
        made_of.append(data)
        return np.full((2, 3, 3), data[0], np.uint8)

    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"\x01")
    other.write_bytes(b"\x01")
    assert cache.get(one, "how", make).max() == cache.get(other, "how", make).max() == 1
    assert PictureCache(cached, 1e9).get(one, "how", make).max() == 1
    assert made_of == [b"\x01"]
    one.write_bytes(b"\x02")
    os.utime(one, ns=(1, 1))
    assert cache.get(one, "how", make).max() == 2
    assert cache.get(one, "otherwise", make).max() == 2
    monkeypatch.setattr(picture_cache, "_decoders", lambda: "a later Pillow")
    assert cache.get(other, "how", make).max() == 1
    assert made_of == [b"\x01", b"\x02", b"\x02", b"\x01"]


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-1], lambda data: data[:40], lambda data: data + b"x",
     lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: b"x" + data[1:],
     lambda data: data[:19] + b"\x03\0\0\0\x02\0\0\0" + data[27:]],
)  # fmt: skip
def test_damage_is_never_a_picture(damage, tmp_path, cached):
    (tmp_path / "file").write_bytes(b"\x07")

    def get():
        return PictureCache(cached, 1e9).get(
            tmp_path / "file", "how", lambda data: np.full((2, 3, 3), data[0], np.uint8)
        )

    expected = get()
    place = next(cached.rglob("*.rgb"))
    place.write_bytes(damage(place.read_bytes()))
    assert np.array_equal(get(), expected)
    assert np.array_equal(PictureCache(cached, 1e9)._read(place), expected)  # it was made again


def fill(cache, folder, numbers):
    for number in numbers:
        (folder / f"{number}").write_bytes(bytes([number]))
        found = cache.get(folder / f"{number}", "how", lambda data: np.full((100, 100, 3), data[0], np.uint8))
        assert found[0, 0, 0] == number


def test_the_folder_is_bounded_and_what_is_old_makes_room(tmp_path, cached):
    fill(PictureCache(cached, 100_000), tmp_path, range(10))
    kept = list(cached.rglob("*.rgb"))
    assert len(kept) == 3
    fill(PictureCache(cached, 100_000), tmp_path, range(20, 25))
    assert {*cached.rglob("*.rgb")} == {*kept}  # used today: the sweep that runs keeps them
    for path in kept:
        os.utime(path, (1, 1))
    fill(PictureCache(cached, 100_000), tmp_path, range(30, 35))
    assert len(list(cached.rglob("*.rgb"))) == 3
    assert len({*cached.rglob("*.rgb")} & {*kept}) == 1


def test_what_a_killed_writer_left_is_removed(tmp_path):
    for name, age in (("a.part", 7200), ("b.part", 60), ("c.rgb", 1e6)):
        (tmp_path / name).write_bytes(b"123")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert tidied(tmp_path, 1e9) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.part", "c.rgb"]


@pytest.mark.parametrize("how", ["full", "nearly full", "no folder", "read-only"])
def test_what_cannot_be_written_is_decoded_as_ever(how, photos, cached, monkeypatch):
    images = images_of(photos)
    if how == "full":
        monkeypatch.setattr(picture_cache.os, "replace", raises(OSError(28, "No space left on device")))
    elif how == "nearly full":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    elif how == "no folder":
        cached.parent.mkdir(parents=True)
        cached.write_text("a file")
    else:
        monkeypatch.setattr(tempfile, "mkstemp", raises(PermissionError()))
    found = epoch(images, 0)
    assert not list(cached.rglob("*.*"))
    monkeypatch.setenv(SIZE_GIB, "0")
    assert torch.equal(found, epoch(images, 0))


def raises(error):
    def call(*args, **more):
        raise error

    return call


def test_several_writers_leave_whole_pictures(tmp_path, cached):
    caches = [PictureCache(cached, 1e9) for _ in range(4)]  # as four processes have them

    def work(number):
        (tmp_path / f"{number % 5}").write_bytes(bytes([number % 5]))
        for cache in caches:
            picture = cache.get(tmp_path / "same", "how", lambda data: np.full((50, 50, 3), data[0], np.uint8))
            assert picture.min() == picture.max() == 9

    (tmp_path / "same").write_bytes(b"\x09")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert len(list(cached.rglob("*.rgb"))) == 1
    assert not list(cached.rglob("*.part"))


def test_a_broken_file_is_named_as_without_the_cache(photos, cached, monkeypatch, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    images, bad = images_of(tmp_path / "copy"), tmp_path / "copy" / "cat" / "0.jpg"
    bad.write_bytes(b"no picture")
    messages = []
    for gib in ("1", "0"):
        monkeypatch.setenv(SIZE_GIB, gib)
        with pytest.raises(UserError, match=f"{bad}: the image can't be decoded") as caught:
            epoch(images, 0)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("text", "most"), [("", 4 * 2**30), ("0.5", 2**29), ("0", None), ("-1", None), ("much", None), ("inf", None)]
)
def test_the_bound_is_read_from_the_environment(text, most, cached, monkeypatch):
    monkeypatch.setenv(SIZE_GIB, text)
    picture_cache._most_gib.cache_clear()
    if text in ("-1", "much", "inf"):
        with pytest.warns(UserWarning, match=f"found '{text}', expected a number of GiB, 0 for no cache"):
            assert pictures() is None
        return
    found = pictures()
    assert (found and found._most) == most


def test_on_cuda_the_next_batch_is_copied_before_this_one_is_given_out(monkeypatch):
    """With a stand-in for CUDA: no GPU was at hand."""
    happened = []

    class Copied:
        def __init__(self, number):
            self.number = number

        def pin_memory(self):
            return self

        def to(self, device, non_blocking):
            assert non_blocking
            happened.append(f"copy {self.number}")
            return self

        def record_stream(self, stream):
            happened.append(f"hold {self.number}")

    class Stream:
        def __init__(self, device=None):
            pass

        def __enter__(self):
            happened.append("aside")

        def __exit__(self, *error):
            pass

        def wait_stream(self, other):
            happened.append("wait")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(transfer.torch, "from_numpy", Copied)
    monkeypatch.setattr(transfer, "_in_floats", lambda batch: batch.number)
    for number in transfer.on_device(iter([1, 2, 3]), torch.device("cuda")):
        happened.append(f"use {number}")
    assert " ".join(one for one in happened if one.startswith(("copy", "use"))) == (
        "copy 1 copy 2 use 1 copy 3 use 2 use 3"
    )
    assert happened.count("wait") == happened.count("aside") == 3
    for number in (1, 2, 3):
        assert happened.index(f"hold {number}") < happened.index(f"use {number}")
    assert list(transfer.on_device(iter([]), torch.device("cuda"))) == []


def test_the_folder_is_the_users(cached):
    assert picture_cache.cache_folder("pictures") == Path(os.environ["XDG_CACHE_HOME"]) / "raybench" / "pictures"
