"""Datasets on miniatures of their real formats, and on the real samples where they are; bad input gets a clear word."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from raybench.datasets.files import list_classes
from raybench.datasets.open import open_dataset
from raybench.datasets.pickles import read_pickle
from raybench.datasets.splits import stratified
from raybench.errors import UserError
from raybench.sweep.data_roots import data_root
from tests.miniatures import cifar10, rows
from tests.shared import DATA, needs_data

CPU = torch.device("cpu")


@pytest.fixture
def cifar(tmp_path):
    """A miniature of CIFAR-10: five batches of 40, a test batch of 20."""
    cifar10(tmp_path, train=40, test=20)
    return tmp_path


@pytest.fixture
def tree(tmp_path):
    """Class folders of JPEGs of different sizes, one of them grey."""
    for split, count in (("train", 8), ("val", 3)):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                mode = "L" if number == 0 else "RGB"
                image = Image.new(mode, (40 + 4 * number, 36), 200 * label)
                image.save(tmp_path / split / name / f"{number}.JPEG")
    return tmp_path


def indices_of(images):
    """The pixels of a split, all in one tensor."""
    return torch.cat(list(images.batches(torch.arange(len(images)).split(16), CPU, None)))


def test_digits_are_split_by_class_and_without_overlap():
    data, again = open_dataset("digits", {}, None), open_dataset("digits", {}, None)
    assert [len(data.train), len(data.val), len(data.test), len(data.whole)] == [1295, 143, 359, 1438]
    assert torch.equal(data.test.labels, again.test.labels)
    for split in (data.train, data.val, data.test):
        shares = split.labels.bincount(minlength=10) / len(split)
        assert shares.min() > 0.08
    pixels = [{row.numpy().tobytes() for row in indices_of(s)} for s in (data.train, data.val, data.test)]
    assert not pixels[0] & pixels[2]
    assert not pixels[0] & pixels[1]
    other = open_dataset("digits", {"split_seed": 1}, None)
    assert not torch.equal(indices_of(other.test), indices_of(data.test))


def test_the_statistics_beside_digits_are_its_own():
    data = open_dataset("digits", {}, None)
    pixels = indices_of(data.train)
    assert float(pixels.mean()) == pytest.approx(data.facts.mean[0], abs=0.003)
    assert float(pixels.std()) == pytest.approx(data.facts.std[0], abs=0.003)


def test_stratified_splits():
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 2)
    rest, held = stratified(labels, 0.1, 0, 3, "x")
    assert labels[held].bincount().tolist() == [1, 2, 1]
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(32))
    with pytest.raises(UserError, match="leaves class 2 without"):
        stratified(torch.tensor([0, 0, 1, 1, 2]), 0.5, 0, 3, "x")
    with pytest.raises(UserError, match="between 0 and 1"):
        stratified(labels, 1.5, 0, 3, "x")


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_cifar_from_its_pickles(cifar, below):
    data = open_dataset("cifar10", {}, cifar / below)
    assert [len(data.train), len(data.val), len(data.test), len(data.whole)] == [180, 20, 20, 200]
    first = indices_of(data.test)[0]
    assert torch.equal((first * 255).round().byte().flatten(), torch.from_numpy(rows(20)["data"][0]))
    assert "stratified" in data.split_note


def test_cifar_100_has_fine_labels(tmp_path):
    for name, count in (("train", 300), ("test", 100)):
        content = rows(count, "fine_labels", 100) | {"coarse_labels": [0] * count}
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    data = open_dataset("cifar100", {}, tmp_path)
    assert data.facts.classes == 100
    assert len(data.val) == 100  # at least one of each class


class Evil:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('{}').touch()",))


def write(folder, content):
    (folder / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)


BAD_CIFAR = {
    "runs code": (lambda: pickle.dumps({"data": Evil()}), "refused: it contains builtins.eval"),
    "truncated": (lambda: pickle.dumps(rows(40), protocol=2)[:5000], "cut short"),
    "empty": (lambda: b"", "cut short"),
    "no pickle": (lambda: b"\x00\x01 this is no pickle", "data_batch_2"),
    "a list": (lambda: pickle.dumps([1, 2]), "found list, expected a dict"),
    "other keys": (lambda: pickle.dumps({"data": [1]}), "expected an array 'data'"),
    "short rows": (lambda: pickle.dumps(rows(40) | {"data": np.zeros((40, 10), np.uint8)}), r"shape \(40, 10\)"),
    "fewer labels": (lambda: pickle.dumps(rows(40) | {"labels": [0] * 39}), "with 39 labels"),
    "wrong labels": (lambda: pickle.dumps(rows(40) | {"labels": [10] * 40}), r"outside 0\.\.9"),
}


@pytest.mark.parametrize("case", BAD_CIFAR)
def test_bad_cifar_files_are_named(cifar, case):
    make, message = BAD_CIFAR[case]
    write(cifar, make())
    with pytest.raises(UserError, match=message) as caught:
        open_dataset("cifar10", {}, cifar)
    assert "data_batch_2" in str(caught.value)


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "torch._utils._rebuild_tensor_v2"])
def test_pickles_build_nothing_but_data(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "x"
    path.write_bytes(b"c" + f"{module}\n{attribute}\n".encode() + b"(S'true'\ntR.")
    with pytest.raises(UserError, match=f"it contains {name}"):
        read_pickle(path)


def test_missing_training_files_are_told(cifar):
    folder = cifar / "cifar-10-batches-py"
    (folder / "data_batch_3").unlink()
    with pytest.raises(UserError, match=r"4 of 5 training files; data_batch_3 missing: the download is damaged"):
        open_dataset("cifar10", {}, cifar)
    (folder / "test_batch").unlink()
    with pytest.raises(UserError, match="found neither"):
        open_dataset("cifar10", {}, cifar)


def test_a_sample_of_cifar_is_told_from_a_download_that_ended_early(cifar):
    folder = cifar / "cifar-10-batches-py"
    for number in (4, 5):
        (folder / f"data_batch_{number}").unlink()
    with pytest.warns(UserWarning, match="3 of 5 training files, of at most 40 images: treated as a sample"):
        assert len(open_dataset("cifar10", {}, cifar).whole) == 120
    (folder / "data_batch_2").write_bytes(pickle.dumps(rows(10_000), protocol=2))  # as long as the real ones
    with pytest.raises(UserError, match=r"data_batch_4, data_batch_5 missing"):
        open_dataset("cifar10", {}, cifar)


def test_roots(tmp_path, monkeypatch):
    monkeypatch.delenv("RAYBENCH_DATA", raising=False)
    assert data_root("digits", {}) is None
    with pytest.raises(UserError, match="RAYBENCH_DATA"):
        data_root("cifar10", {})
    with pytest.raises(UserError, match="found no folder"):
        data_root("cifar10", {"cifar10": tmp_path / "nowhere"})
    with pytest.raises(UserError, match="shows its processes and devices as files; expected a folder of data"):
        data_root("imagefolder", {"imagefolder": "/proc/self"})
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("RAYBENCH_DATA", str(tmp_path))
    assert data_root("cifar10", {}) == tmp_path / "cifar10"


def test_class_folders(tree):
    data = open_dataset("imagefolder", {"image_size": 24, "val_share": 0.25}, tree)
    assert data.facts.classes == 2
    assert [len(data.train), len(data.val), len(data.test)] == [12, 4, 6]
    images = indices_of(data.test)
    assert images.shape == (6, 3, 24, 24)
    assert images[data.test.labels == 1, 0].mean() > 0.5  # red where they are no grey ones
    assert images[data.test.labels == 0].max() < 0.1
    order = [torch.tensor([0, 5]), torch.tensor([2])]
    crops = [torch.full((2, 4), 0.5), torch.full((1, 4), 0.5)]
    assert [tuple(b.shape) for b in data.train.batches(order, CPU, crops)] == [(2, 3, 24, 24), (1, 3, 24, 24)]


def test_a_test_folder_is_the_test_split(tree):
    for name in ("ant", "bee"):
        (tree / "test" / name).mkdir(parents=True)
        Image.new("RGB", (30, 30)).save(tree / "test" / name / "0.png")
    data = open_dataset("imagefolder", {}, tree)
    assert [len(data.train), len(data.val), len(data.test), len(data.whole)] == [16, 6, 2, 22]


def test_unreadable_images_are_named_counted_and_refused_above_a_share(tree):
    whole = (tree / "train" / "ant" / "3.JPEG").read_bytes()
    (tree / "train" / "ant" / "3.JPEG").write_bytes(whole[: len(whole) // 2])
    (tree / "train" / "bee" / "5.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 16 images can't be read: .*3\.JPEG, .*5\.JPEG; that is above the 1.0%"):
        open_dataset("imagefolder", {}, tree)
    list_classes.cache_clear()
    with pytest.warns(UserWarning, match="2 of 16 images"):
        data = open_dataset("imagefolder", {"max_unreadable": 0.2, "val_share": 0.2}, tree)
    assert len(data.whole) == 14


def test_damage_after_the_check_is_named_when_the_image_is_read(tree):
    path = tree / "val" / "bee" / "1.png"
    Image.effect_noise((40, 40), 90).save(path)
    data = open_dataset("imagefolder", {}, tree)
    path.write_bytes(path.read_bytes()[:500])  # the header is whole, the pixels are not
    with pytest.raises(UserError, match=r"1\.png: the image can't be decoded"):
        indices_of(data.test)


def test_bad_trees(tree):
    with pytest.raises(UserError, match=r"found 2 class folders.*expected 1000"):
        open_dataset("imagenet", {}, tree)
    (tree / "val" / "cat").mkdir()
    with pytest.raises(UserError, match="no readable image in class cat"):
        open_dataset("imagefolder", {}, tree)
    Image.new("RGB", (9, 9)).save(tree / "val" / "cat" / "0.png")
    list_classes.cache_clear()
    with pytest.raises(UserError, match=r"different classes: cat \(not in train/\)"):
        open_dataset("imagefolder", {}, tree)
    with pytest.raises(UserError, match="found no train"):
        open_dataset("imagefolder", {}, tree / "train" / "ant")


@pytest.mark.parametrize("closed", ["train", "train/ant", "val/bee"])
def test_a_folder_that_may_not_be_read_is_named(tree, monkeypatch, closed):
    """What lies in it would be missing without a word; root may read everything, so the system is stood in for."""
    before = os.scandir

    def scandir(path):
        if os.fspath(path) == str(tree / closed):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return before(path)

    monkeypatch.setattr(os, "scandir", scandir)
    message = rf"dataset 'imagefolder': {tree / closed}: this user may not read it \(Permission denied\); change its"
    with pytest.raises(UserError, match=message):
        open_dataset("imagefolder", {}, tree)


def test_unknown_statistics(tree):
    with pytest.raises(UserError, match="Did you mean 'inception'"):
        open_dataset("imagefolder", {"statistics": "incepton"}, tree)


@needs_data
@pytest.mark.filterwarnings("ignore:dataset 'cifar10'")
def test_the_real_samples_open():
    ten = open_dataset("cifar10", {}, DATA / "cifar10")
    assert [len(ten.whole), len(ten.test)] == [2000, 500]
    tiny = open_dataset("imagefolder", {"image_size": 64}, DATA / "imagenet64")
    assert [tiny.facts.classes, len(tiny.whole), len(tiny.test)] == [10, 1000, 500]
    assert indices_of(tiny.val).shape[1:] == (3, 64, 64)
    with pytest.raises(UserError, match="leaves class"):  # ten images of a hundred classes
        open_dataset("cifar100", {}, DATA / "cifar100-mini")
