"""What identifies data, by hand: digests of folders and files, their cache, where data lies and what is told of it."""

from __future__ import annotations

import hashlib
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from raybench import registry
from raybench.errors import UserError
from raybench.storage.user_cache import cache_name
from raybench.sweep import data_roots
from raybench.sweep import fingerprint as module
from raybench.sweep.data_roots import check_fingerprint, data_fingerprint, data_root, folder_hint
from raybench.sweep.fingerprint import SMALL, Fingerprint, file_fingerprint, fingerprint

BIG_IMAGE = b"0" * (SMALL + 1)


def sha(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def entry(name: str, size: int, content: bytes | None) -> bytes:
    return f"{name}\0{size}\0{sha(content) if content is not None else ''}\n".encode()


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder of labels, small and large images, hidden files and what tools leave."""
    monkeypatch.setattr(module, "SETTLED_S", -1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = tmp_path / "root"
    files = {
        "b/2.txt": b"two", "b/1.jpg": b"one", "b/big.JPEG": BIG_IMAGE, "b/even.png": BIG_IMAGE[:-1], "a/x.csv": b"",
        "top.json": BIG_IMAGE, ".hidden": b"h", "b/labels.cache": b"c", "__pycache__/m.pyc": b"p", ".git/config": b"g",
        "b/.DS_Store": b"d",
    }  # fmt: skip
    for name, content in files.items():
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_bytes(content)
    return found


def test_the_digest_of_a_folder_is_that_of_names_sizes_and_contents(root) -> None:
    b = [entry("1.jpg", 3, b"one"), entry("2.txt", 3, b"two"), entry("big.JPEG", SMALL + 1, None),
         entry("even.png", SMALL, BIG_IMAGE[:-1])]  # fmt: skip
    folders = {"": [entry("top.json", SMALL + 1, BIG_IMAGE)], "a": [entry("x.csv", 0, b"")], "b": b}
    whole = b"".join(f"{name}\0{sha(*entries)}\n".encode() for name, entries in folders.items())
    assert fingerprint(root) == Fingerprint(sha(whole)[:16], {})
    assert str(fingerprint(root)) == sha(whole)[:16] == fingerprint(root, quick=True).digest
    assert SMALL == 65536


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.jpeg", "a.jfif", "a.png", "a.bmp", "a.webp", "a.tif", "a.tiff", "a.gif", "a.ppm", "a.pgm",
             "a.avif", "A.JPG"],
)  # fmt: skip
def test_large_images_count_by_name_and_size(name, tmp_path) -> None:
    file = tmp_path / name
    file.write_bytes(BIG_IMAGE)
    assert file_fingerprint(file) == sha(f"{name}\0{SMALL + 1}\0".encode())[:16]
    file.write_bytes(BIG_IMAGE[:-1])
    assert file_fingerprint(file) == sha(f"{name}\0{SMALL}\0{sha(BIG_IMAGE[:-1])}".encode())[:16]


def test_a_file_that_is_not_there_has_no_fingerprint(tmp_path) -> None:
    assert file_fingerprint(tmp_path / "none.txt") == ""
    (tmp_path / "a.txt").write_bytes(BIG_IMAGE)
    assert file_fingerprint(tmp_path / "a.txt") == sha(f"a.txt\0{SMALL + 1}\0{sha(BIG_IMAGE)}".encode())[:16]


def test_the_cache_holds_every_folder_and_is_written_when_something_is_new(root, tmp_path, monkeypatch) -> None:
    cache = tmp_path / "cache/raybench/fingerprints" / cache_name(root)
    before = fingerprint(root)
    held = json.loads(cache.read_text())
    assert set(held) == {"", "a", "b"}
    assert [held[name][3] for name in ("", "a", "b")] == [["a", "b"], [], []]
    assert [held[name][4:] for name in ("", "a", "b")] == [[[], "", 1], [[], "", 1], [[], "", 4]]
    states = b"".join(
        f"{name}\0{(root / 'b' / name).stat().st_size}\0{(root / 'b' / name).stat().st_mtime_ns}"
        f"\0{(root / 'b' / name).stat().st_ctime_ns}\n".encode()
        for name in ("1.jpg", "2.txt", "big.JPEG", "even.png")
    )
    assert held["b"][0] == sha(states)
    written = []
    monkeypatch.setattr(module, "write_cache", lambda *args: written.append(args))
    assert fingerprint(root) == before
    assert written == []
    (root / "c").mkdir()
    fingerprint(root)
    assert [(file, set(content)) for file, content in written] == [(cache, {"", "a", "b", "c"})]


def test_a_folder_that_has_just_changed_is_not_kept(root, tmp_path, monkeypatch) -> None:
    cache = tmp_path / "cache/raybench/fingerprints" / cache_name(root)
    monkeypatch.setattr(module, "SETTLED_S", 2.0)
    now = max(file.stat().st_ctime for file in root.rglob("*"))
    monkeypatch.setattr(module.time, "time", lambda: now + 1.9)
    fingerprint(root)
    assert not cache.exists() or not json.loads(cache.read_text())
    monkeypatch.setattr(module.time, "time", lambda: now + 2.1)
    fingerprint(root)
    assert set(json.loads(cache.read_text())) == {"", "a", "b"}


def test_what_could_not_be_read_stays_counted_while_nothing_changes(root, monkeypatch) -> None:
    real = module.file_sha256

    def refusing(path):
        if str(path).endswith("2.txt"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(module, "file_sha256", refusing)
    first = fingerprint(root)
    assert first.left_out == {"unreadable entries": 1}
    monkeypatch.setattr(module, "file_sha256", lambda path: pytest.fail("a file was read"))
    assert fingerprint(root) == first
    assert fingerprint(root) == first, "from the cache that the second look wrote"


@pytest.mark.parametrize(
    "content", ['{"a": [1]}', "[]", "{", '{"a": 3}', '{"a": ["s", "d", {}, 3, [], "", 1]}', "\xff"]
)
def test_a_damaged_cache_is_made_again(content, root, tmp_path) -> None:
    before = fingerprint(root)
    cache = tmp_path / "cache/raybench/fingerprints" / cache_name(root)
    whole = cache.read_text()
    cache.write_bytes(content.encode("latin-1"))
    assert fingerprint(root) == before
    assert json.loads(cache.read_text()) == json.loads(whole)


def test_a_quick_look_samples_every_so_many_images(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SETTLED_S", -1)
    root, cache = tmp_path / "root", tmp_path / "cache"
    for folder, count in (("large", 100), ("even", 64), ("small", 63)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{i:03}.jpg").write_bytes(b"0")
    (root / "mixed").mkdir()
    for i in range(70):
        (root / "mixed" / f"{i:03}.{'txt' if i == 69 else 'jpg'}").write_bytes(b"0")
    fingerprint(root, cache=cache)
    held = json.loads((cache / cache_name(root)).read_text())
    assert held["large"][4] == [f"{i:03}.jpg" for i in range(0, 100, 6)]
    assert held["even"][4] == [f"{i:03}.jpg" for i in range(0, 64, 4)]
    assert [held[name][4:6] for name in ("small", "mixed", "")] == [[[], ""]] * 3
    assert [held[name][6] for name in ("large", "even", "small", "mixed", "")] == [100, 64, 63, 70, 0]
    own = (root / "even").stat()
    states = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in ((root / "even" / n).stat() for n in held["even"][4])]
    assert held["even"][5] == sha(json.dumps([own.st_mtime_ns, own.st_ctime_ns, states]).encode())
    assert module._quick_state(str(root / "even"), own, ("nowhere.jpg",)) == ""
    assert (module.BIG, module.SAMPLE, module.LARGE_TREE, module.BIG_THERE) == (512, 16, 100_000, 64)


@pytest.mark.parametrize("big", [100, 101])
def test_a_quick_look_trusts_folders_from_so_many_images_on(big, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SETTLED_S", -1)
    monkeypatch.setattr(module, "BIG", big)
    (tmp_path / "root/a").mkdir(parents=True)
    for i in range(100):
        (tmp_path / f"root/a/{i:03}.jpg").write_bytes(b"0")
    before = fingerprint(tmp_path / "root", cache=tmp_path / "cache")
    (tmp_path / "root/a/001.jpg").write_bytes(b"1")  # in no sample, and its folder's time stays
    assert (fingerprint(tmp_path / "root", cache=tmp_path / "cache", quick=True) == before) == (big == 100)
    assert fingerprint(tmp_path / "root", cache=tmp_path / "cache") != before


@pytest.mark.parametrize(("files", "trusted"), [(100, True), (101, False)])
def test_in_a_large_tree_smaller_folders_are_trusted(files, trusted, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SETTLED_S", -1)
    monkeypatch.setattr(module, "LARGE_TREE", files)
    for i in range(64):
        (tmp_path / "root/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"root/a/{i:03}.jpg").write_bytes(b"0")
    (tmp_path / "root/b").mkdir()
    for i in range(36):
        (tmp_path / f"root/b/{i:03}.txt").write_bytes(b"0")
    before = fingerprint(tmp_path / "root", cache=tmp_path / "cache")
    (tmp_path / "root/a/001.jpg").write_bytes(b"1")
    assert (fingerprint(tmp_path / "root", cache=tmp_path / "cache", quick=True) == before) is trusted


def test_data_lies_where_the_sweep_or_the_variable_says(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAYBENCH_DATA", raising=False)
    (tmp_path / "d/cifar10").mkdir(parents=True)
    assert data_root("digits", {"digits": "/nowhere"}) is None
    assert data_root("cifar10", {"cifar10": "~/d/cifar10"}) == tmp_path / "d/cifar10"
    with pytest.raises(UserError) as error:
        data_root("cifar10", {"coco": tmp_path})
    assert str(error.value) == (
        "dataset 'cifar10' needs its folder: set RAYBENCH_DATA to a folder with a subfolder 'cifar10', or data_roots: "
        "{cifar10: FOLDER} in the sweep"
    )
    monkeypatch.setenv("RAYBENCH_DATA", "~/d")
    assert data_root("cifar10", {}) == tmp_path / "d/cifar10"
    with pytest.raises(UserError) as error:
        data_root("cifar100", {})
    missing, near = tmp_path / "d/cifar100", tmp_path / "d/cifar10"
    found = f"dataset 'cifar100': found no folder {missing} (from RAYBENCH_DATA). Did you mean '{near}'?"
    assert str(error.value) == found
    with pytest.raises(UserError, match=r"found no folder /nowhere \(from data_roots: cifar10\)"):
        data_root("cifar10", {"cifar10": "/nowhere"})
    monkeypatch.chdir(tmp_path)
    assert folder_hint("none") == ". Class folders of your own images: imagefolder"
    assert (
        folder_hint("d")
        == ". d is a folder here: for class folders use the dataset imagefolder, with d as its data root"
    )


def datasets_with(name: str, **facts):
    """The dataset `name` with other facts, in place of the registered one."""
    own = registry.dataset.entry("cifar10")
    known = {**registry.dataset.entries(), name: replace(own, name=name, facts=facts)}
    return known


def test_data_outside_a_folder_and_single_files_are_part_of_the_fingerprint(root, tmp_path, monkeypatch) -> None:
    outside = [tmp_path / "far", tmp_path / "list.txt"]
    outside[0].mkdir()
    (outside[0] / "x.txt").write_bytes(b"x")
    outside[1].write_bytes(b"y")
    (outside[0] / "gone").symlink_to(tmp_path / "nowhere")
    asked = []
    monkeypatch.setattr(data_roots, "called", lambda source, *args: asked.append((source, *args)) or tuple(outside))
    parts = {"reads": "b", "layout": "m:layout", "elsewhere": "m:elsewhere"}
    monkeypatch.setattr(registry.dataset, "_entries", datasets_with("own", **parts))
    with pytest.warns(UserWarning, match="1 dead links") as warned:
        found = data_fingerprint("own", {"own": root}, {"p": 1})
    each = [fingerprint(root / "b").digest, fingerprint(outside[0]).digest, file_fingerprint(outside[1])]
    assert found == sha(" ".join(each).encode())[:16]
    assert asked == [("m:layout", root), ("m:elsewhere", root, {"p": 1})]
    assert [str(one.message) for one in warned] == [f"dataset 'own': {root}: 1 dead links"]
    assert warned[0].filename == __file__
    monkeypatch.setattr(registry.dataset, "_entries", datasets_with("own", reads="top.json"))
    assert data_fingerprint("own", {"own": root}, {}) == file_fingerprint(root / "top.json")
    monkeypatch.setattr(registry.dataset, "_entries", datasets_with("own"))
    assert data_fingerprint("own", {"own": root}, {}) == fingerprint(root).digest
    monkeypatch.delenv("RAYBENCH_DATA", raising=False)
    assert data_fingerprint("own", {}, {}) is None
    monkeypatch.setattr(registry.dataset, "_entries", datasets_with("own", user_data=True))
    with pytest.raises(UserError, match="needs its folder"):
        data_fingerprint("own", {}, {})
    monkeypatch.undo()
    assert data_fingerprint("digits", {}, {}) is None
    assert data_roots.called("os.path:join", "a", "b") == "a/b"


def test_a_look_is_as_quick_as_it_is_asked_to_be(root, monkeypatch) -> None:
    looks = []
    monkeypatch.setattr(registry.dataset, "_entries", datasets_with("own"))
    monkeypatch.setattr(data_roots, "fingerprint", lambda place, *, quick: looks.append(quick) or Fingerprint("f" * 16))
    data_fingerprint("own", {"own": root}, {})
    data_fingerprint("own", {"own": root}, {}, quick=True)
    check_fingerprint("own", {"own": root}, "f" * 16)
    check_fingerprint("own", {"own": root}, "f" * 16, quick=False)
    assert looks == [False, True, True, False]
    for nothing in (None, "", "0" * 64, "0" * 64 + ":"):
        check_fingerprint("own", {"own": root}, nothing)
    assert len(looks) == 4
    with pytest.raises(UserError) as error:
        check_fingerprint("own", {"own": root}, "a:" + "0" * 16, {"p": 1})
    assert str(error.value) == (
        f"dataset 'own': {root} on {socket.gethostname()} holds other data (fingerprint {'f' * 16}) than the sweep was "
        f"planned with ({'0' * 16}); plan again, or make the folders equal"
    )
    monkeypatch.setattr(data_roots, "data_fingerprint", lambda *args, **more: None)
    check_fingerprint("own", {"own": root}, "0" * 16)
