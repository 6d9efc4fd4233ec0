"""Two states of data never share an id: labels, annotations, archives and small files count by content."""

import os
import time
import warnings
from pathlib import Path

import pytest

from raybench.datasets.yolo_elsewhere import elsewhere
from raybench.errors import UserError
from raybench.sweep import fingerprint as module
from raybench.sweep.data_roots import check_fingerprint, data_fingerprint
from raybench.sweep.fingerprint import SMALL, fingerprint
from raybench.sweep.resolve import resolve
from tests.unit.sweeps import sweep

OLD = time.time() - 100


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The user's cache folder for this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SETTLED_S", -1)  # files may change in the same tick as they were read: not these
    return tmp_path / "cache"


def tree(root: Path, **files: bytes) -> Path:
    """A folder of `files`, all last changed a while ago; `__` in a name is a `/`, `_dot_` a dot."""
    for name, content in files.items():
        file = root / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, (OLD, OLD))
    for folder in (root, *(found for found in root.rglob("*") if found.is_dir())):
        os.utime(folder, (OLD, OLD))
    return root


def ids(name: str, root: Path) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            t.trial_id for t in resolve(sweep(datasets=name, models="cifar-resnet20", data_roots={name: str(root)}))
        }


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("cifar10", "cifar-10-batches-py__data_batch_1"),
        ("cifar100", "cifar-100-python__train"),
        ("imagefolder", "train__cat__1_dot_jpg"),
        ("imagefolder", "val__cat__1_dot_PNG"),
        ("imagenet", "train__n01440764__n01440764_10026_dot_JPEG"),
        ("coco", "annotations__instances_train2017_dot_json"),
        ("yolo", "labels__train__1_dot_txt"),
        ("yolo", "data_dot_yaml"),
    ],
)
def test_other_content_of_the_same_size_is_another_id(dataset, file, tmp_path, cache):
    layout = {f"{split}__cat__0_dot_png": b"0" for split in ("train", "val")} if dataset == "imagefolder" else {}
    one, same, other = (
        tree(tmp_path / name, **layout, **{file: content})
        for name, content in (("a", b"0 1"), ("b", b"0 1"), ("c", b"1 0"))
    )
    assert ids(dataset, one) == ids(dataset, same)
    assert not ids(dataset, one) & ids(dataset, other)


def test_archives_and_annotations_of_any_size_count_by_content_and_large_images_by_size(tmp_path, cache):
    big = b"0" * (SMALL + 1)
    archives = [fingerprint(tree(tmp_path / c, data_batch_1=big[:-1] + c.encode())) for c in "ab"]
    assert archives[0] != archives[1]
    images = [fingerprint(tree(tmp_path / "images" / c, x_dot_jpg=big[:-1] + c.encode())) for c in "ab"]
    assert images[0] == images[1]
    longer = fingerprint(tree(tmp_path / "images/c", x_dot_jpg=big + b"0"))
    assert longer != images[0]


def test_links_are_followed_and_dead_ones_and_loops_are_counted(tmp_path, cache):
    store = tree(tmp_path / "store", cat__1_dot_jpg=b"one")
    root = tree(tmp_path / "root", val__cat__1_dot_jpg=b"one")
    (root / "train").symlink_to(store)
    before = fingerprint(root)
    tree(tmp_path / "store", cat__1_dot_jpg=b"two")
    assert fingerprint(root) != before
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (store / "back").symlink_to(root)
    found = fingerprint(root)
    assert found.left_out == {"dead links": 1, "links that lead back to a folder above": 1}
    with pytest.warns(UserWarning, match="1 dead links, 1 links that lead back"):
        resolve(sweep(datasets="imagefolder", models="cifar-resnet20", data_roots={"imagefolder": str(root)}))


def test_names_that_are_not_utf8_count_and_are_told(tmp_path, cache):
    root = tree(tmp_path / "root", train__cat__1_dot_jpg=b"one")
    before = fingerprint(root)
    os.rename(root / "train/cat/1.jpg", os.fsencode(root / "train/cat") + b"/\xff.jpg")
    found = fingerprint(root)
    assert found.digest != before.digest
    assert found.left_out == {"names that are not UTF-8": 1}


def test_what_tools_leave_behind_does_not_count(tmp_path, cache):
    root = tree(tmp_path / "root", labels__1_dot_txt=b"0")
    before = fingerprint(root)
    tree(root, _dot_DS_Store=b"x", labels_dot_cache=b"x", _dot_ipynb_checkpoints__a=b"x", __pycache=b"")
    (root / "pycache").unlink(missing_ok=True)
    assert fingerprint(root).digest == before.digest


def test_a_second_look_reads_no_file_and_sees_every_change(tmp_path, cache, monkeypatch):
    root = tree(tmp_path / "root", labels__1_dot_txt=b"0 1", labels__2_dot_txt=b"1 1", images__1_dot_jpg=b"x")
    for folder in (root / "labels", root / "images", root):
        os.utime(folder, (OLD, OLD))
    before = fingerprint(root)
    read = []
    monkeypatch.setattr(
        module.hashlib, "file_digest", lambda *a, own=module.hashlib.file_digest: read.append(a) or own(*a)
    )
    assert fingerprint(root) == before
    assert not read
    tree(root, labels__2_dot_txt=b"0 1")  # the same size, its time put back
    assert fingerprint(root) != before
    assert len(read) == 2  # the folder's files, and no other's


def test_a_cache_that_is_damaged_or_cannot_be_written_changes_nothing(tmp_path, cache):
    root = tree(tmp_path / "root", labels__1_dot_txt=b"0 1")
    before = fingerprint(root)
    for file in (cache / "raybench/fingerprints").iterdir():
        file.write_text('{"": [1]}')
    assert fingerprint(root) == before
    assert fingerprint(root, cache=Path("/proc/none")) == before


def test_a_quick_look_trusts_folders_of_many_large_images_and_a_whole_one_does_not(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(module, "BIG", 64)
    root = tmp_path / "root"
    tree(root, **{f"cat__{i:03}_dot_jpg": b"0" * (SMALL + 1) for i in range(100)})
    for folder in (root / "cat", root):
        os.utime(folder, (OLD, OLD))
    before = fingerprint(root, quick=True)
    (root / "cat/001.jpg").write_bytes(b"0" * (SMALL + 2))  # in place: the folder's own time stays
    assert fingerprint(root, quick=True) == before
    assert fingerprint(root) != before
    (root / "cat/new.jpg").write_bytes(b"0" * (SMALL + 1))  # a file more changes the folder's time
    assert fingerprint(root, quick=True) != before


def test_a_quick_look_lists_no_folder_of_many_images_whatever_their_sizes(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(module, "BIG", 64)
    root = tmp_path / "root"
    tree(root, **{f"cat__{i:03}_dot_jpg": b"0" * (SMALL + 1 if i % 5 else 9) for i in range(100)})
    for folder in (root / "cat", root):
        os.utime(folder, (OLD, OLD))
    monkeypatch.setattr(module, "SETTLED_S", -1)
    before = fingerprint(root)
    listed = []
    monkeypatch.setattr(module.os, "scandir", lambda path, real=os.scandir: listed.append(str(path)) or real(path))
    assert fingerprint(root, quick=True) == before
    assert listed == [str(root)], "the folder of classes, not the one of images"


def test_a_quick_look_at_a_large_tree_trusts_smaller_folders_too(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(module, "LARGE_TREE", 90)
    monkeypatch.setattr(module, "BIG_THERE", 20)
    roots = [tmp_path / "large", tmp_path / "small"]
    for root, folders in zip(roots, (3, 2), strict=True):
        tree(root, **{f"{c}__{i:02}_dot_jpg": b"0" for c in "abc"[:folders] for i in range(30)})
        tree(root, few__1_dot_jpg=b"0")
    before = [fingerprint(root) for root in roots]
    listed = []
    monkeypatch.setattr(module.os, "scandir", lambda path, real=os.scandir: listed.append(str(path)) or real(path))
    assert [fingerprint(root, quick=True) for root in roots] == before
    large, small = (
        {str(root.joinpath(*parts)) for parts in ((), ("few",), *((c,) for c in more))}
        for root, more in zip(roots, ("", "ab"), strict=True)
    )
    assert set(listed) == large | small


def test_a_worker_with_other_data_than_planned_refuses_the_cell(tmp_path, cache):
    files = {"val__cat__1_dot_jpg": b"0"}
    planned, other = (tree(tmp_path / c, train__cat__1_dot_jpg=c.encode(), **files) for c in "ab")
    digest = fingerprint(planned).digest
    check_fingerprint("imagefolder", {"imagefolder": planned}, digest)
    check_fingerprint("imagefolder", {"imagefolder": planned}, f"{'0' * 64}:{digest}")  # a plug-in's dataset
    with pytest.raises(UserError, match=r"holds other data .* than the sweep was planned with"):
        check_fingerprint("imagefolder", {"imagefolder": other}, digest)
    check_fingerprint("imagefolder", {"imagefolder": other}, None)


def test_published_data_may_be_missing_where_the_sweep_is_planned(cache, monkeypatch, tmp_path):
    monkeypatch.delenv("RAYBENCH_DATA", raising=False)
    assert resolve(sweep(datasets="cifar10", models="cifar-resnet20"))[0].dataset_fingerprint is None
    with pytest.raises(UserError, match="dataset 'imagefolder' needs its folder"):
        resolve(sweep(datasets="imagefolder", models="cifar-resnet20"))


YOLO = {  # what data.yaml says of a dataset whose images lie beside its folder -> the file of labels there
    "path": ("path: ../store\ntrain: images/train\nval: images/val\n", "store/labels/val/1.txt"),
    "a folder": ("train: ../store/images/train\nval: ../store/images/val\n", "store/labels/train/1.txt"),
    "a list": ("train: train.txt\nval: ../store/images/val\n", "store/labels/train/1.txt"),
    "a list elsewhere": ("train: ../store/train.txt\nval: ../store/images/val\n", "store/train.txt"),
    "an image above the folder": ("train: above.txt\nval: above.txt\n", "1.txt"),
    "images above the folder": ("train: above.txt\nval: above.txt\n", "1.jpg"),
}


@pytest.mark.parametrize("case", YOLO)
def test_what_a_yaml_takes_from_outside_the_folder_counts_by_the_same_rule(case, tmp_path, cache):
    yaml, changed = YOLO[case]
    found = []
    for name, content in (("a", b"0 .5 .5 .1 .1"), ("b", b"0 .5 .5 .1 .1"), ("c", b"1 .5 .5 .1 .1")):
        files = {f"store/{part}/{split}/1.{end}": b"0" for split in ("train", "val") for part, end in PARTS}
        files |= {"1.jpg": b"0", "1.txt": b"0", "store/train.txt": b"images/train/1.jpg"}
        files |= {"y/data.yaml": b"names: [a, b]\n" + yaml.encode(), "y/above.txt": b"../1.jpg"}
        files |= {"y/train.txt": b"../store/images/train/1.jpg\n../nowhere.jpg\n", changed: content}
        if changed.endswith("train.txt"):
            files[changed] += b"\n./images/train/1.jpg"
        tree(tmp_path / name, **{file.replace("/", "__").replace(".", "_dot_"): data for file, data in files.items()})
        found.append(ids("yolo", tmp_path / name / "y"))
    assert found[0] == found[1] != found[2]


PARTS = (("images", "jpg"), ("labels", "txt"))


def test_what_lies_below_the_folder_counts_once_links_too(tmp_path, cache):
    yaml = b"names: [a, b]\npath: .\ntrain: train.txt\nval: images/val\n"
    root = tree(tmp_path / "y", data_dot_yaml=yaml, train_dot_txt=b"./images/val/1.jpg", labels__val__1_dot_txt=b"0")
    tree(tmp_path / "far", **{"1_dot_jpg": b"0"})
    (root / "images").mkdir()
    (root / "images/val").symlink_to(tmp_path / "far")
    assert elsewhere(root, {"data": "data.yaml"}) == ()
    assert data_fingerprint("yolo", {"yolo": root}, {}) == fingerprint(root).digest


@pytest.mark.parametrize("yaml", [None, b"", b"[", b"train: 5\nval: [../none, 3]", b"train: ../none.txt", b"\xff\xfe"])
def test_a_broken_yaml_has_nothing_elsewhere(yaml, tmp_path, cache):
    root = tree(tmp_path / "y", x_dot_txt=b"1", **({} if yaml is None else {"data_dot_yaml": yaml}))
    assert elsewhere(root, {}) == ()


def test_a_worker_with_other_labels_outside_the_folder_is_told(tmp_path, cache):
    yaml = b"names: [a, b]\ntrain: ../images/train\nval: ../images/train\n"
    for name, label in (("a", b"0"), ("b", b"1")):
        files = {"y__data_dot_yaml": yaml, "images__train__1_dot_jpg": b"0", "labels__train__1_dot_txt": label}
        tree(tmp_path / name, **files)
    planned = data_fingerprint("yolo", {"yolo": tmp_path / "a/y"}, {})
    check_fingerprint("yolo", {"yolo": tmp_path / "a/y"}, planned)
    with pytest.raises(UserError, match="holds other data"):
        check_fingerprint("yolo", {"yolo": tmp_path / "b/y"}, planned)
