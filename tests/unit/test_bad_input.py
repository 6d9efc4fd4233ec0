"""Bad data, weights and recipes, typed on the command line: one clear error and exit code 2 before any training."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from raybench.cli.main import main
from raybench.datasets.facts import DataFacts
from raybench.models.build import build_model
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.miniatures import cifar10


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a pickle ran')",))


def batch(count, labels=None):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": pixels, "labels": labels or [index % 10 for index in range(count)]}


@pytest.fixture
def cifar(tmp_path):
    """A miniature of CIFAR-10."""
    return cifar10(tmp_path / "cifar", train=30, test=30)


@pytest.fixture
def tree(tmp_path):
    """Class folders of 12 and 4 JPEGs."""
    for split, count in (("train", 6), ("val", 2)):
        for name in ("ant", "bee"):
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.effect_noise((40, 40), 60).convert("RGB").save(
                    tmp_path / "tree" / split / name / f"{number}.JPEG"
                )
    return tmp_path / "tree"


def sweep(tmp_path, **fields):
    """A sweep file that says `told`, and for the rest one quick cell on CIFAR-10."""
    whole = {
        "name": "bad", "datasets": ["cifar10"], "models": ["test-convnet"], "methods": ["magnitude-l2"],
        "strategies": ["global"], "speedups": [2], "seeds": [0], "recipe": "quick",
        "data_roots": {"cifar10": str(tmp_path / "cifar"), "imagefolder": str(tmp_path / "tree")},
    }  # fmt: skip
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(whole | fields))
    return file


def refused(tmp_path, capsys, **fields):
    """What `raybench run` says in refusing the sweep; nothing may have been computed or written down as a result."""
    assert main(["run", str(sweep(tmp_path, **fields)), "--local", "--storage", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    return said.err


def test_a_missing_root(tmp_path, capsys):
    said = refused(tmp_path, capsys, data_roots={"cifar10": "nowhere"})
    assert "dataset 'cifar10': found no folder" in said
    assert "nowhere" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(batch(30), protocol=2)[:4000], "data_batch_2: cut short"),
        (pickle.dumps({"data": Evil()}), "data_batch_2: refused: it contains builtins.exec"),
        (None, "data_batch_2 missing: the download is damaged"),
    ],
    ids=["truncated", "runs code", "missing"],
)
def test_bad_archives(tmp_path, capsys, cifar, content, message):
    (cifar / "data_batch_2").unlink()
    if content is not None:
        (cifar / "data_batch_2").write_bytes(content)
    assert message in refused(tmp_path, capsys)


def test_a_split_that_leaves_a_class_empty(tmp_path, capsys, cifar):
    for number in range(1, 6):
        (cifar / f"data_batch_{number}").write_bytes(pickle.dumps(batch(30, [index % 9 for index in range(30)])))
    assert "leaves class 9 without an image" in refused(tmp_path, capsys)


def test_unreadable_images(tmp_path, capsys, tree):
    file = tree / "train" / "bee" / "3.JPEG"
    file.write_bytes(file.read_bytes()[:300])
    said = refused(tmp_path, capsys, datasets=[{"name": "imagefolder", "params": {"image_size": 32}}])
    assert f"1 of 12 images can't be read: {file}; that is above the 1.0%" in said


@pytest.mark.parametrize(
    ("other", "classes", "message"),
    [
        ("cifar-resnet32", 10, "these are not weights of this ThinResNet"),
        ("cifar-resnet20", 7, "linear.weight (7, 64) instead of (10, 64)"),
    ],
)
def test_weights_of_another_architecture_or_number_of_classes(tmp_path, capsys, cifar, other, classes, message):
    facts = DataFacts("any", "classification", classes, 3, 32, (0.5,) * 3, (0.5,) * 3, "")
    torch.save(build_model(other, facts).state_dict(), tmp_path / "weights.pt")
    models = [{"name": "cifar-resnet20", "weights": str(tmp_path / "weights.pt")}]
    assert message in refused(tmp_path, capsys, models=models)
    command = ["prune", "--model", "cifar-resnet20", "--weights", str(tmp_path / "weights.pt"), "--dataset", "cifar10",
               "--data-root", str(cifar.parent), "--speedup", "2", "-o", str(tmp_path / "pruned")]  # fmt: skip
    assert main(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), torch.float32), (float("-inf"), torch.float16), (1e300, torch.float64)]
)
def test_weights_that_are_no_numbers(tmp_path, capsys, cifar, value, dtype):
    facts = DataFacts("any", "classification", 10, 3, 32, (0.5,) * 3, (0.5,) * 3, "")
    state = {name: given.to(dtype) for name, given in build_model("cifar-resnet20", facts).state_dict().items()}
    state["linear.bias"][3] = value
    torch.save(state, tmp_path / "weights.pt")
    said = refused(tmp_path, capsys, models=[{"name": "cifar-resnet20", "weights": str(tmp_path / "weights.pt")}])
    found = "found 1 tensors with NaN or infinite values (1 of 10 in linear.bias); expected numbers"
    assert f"{tmp_path / 'weights.pt'}: {found}" in said


def test_a_model_of_other_classes_than_the_data(tmp_path, capsys, cifar, monkeypatch):
    (tmp_path / "nine.py").write_text(
        "from torch import nn\n\ndef net(num_classes, in_channels, image_size):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert "model Sequential: found a tensor (1, 9) for one image; it must give one tensor (1, 10)" in refused(
        tmp_path, capsys, models=["nine:net"]
    )


def test_a_recipe_that_could_not_be_followed_to_its_end(tmp_path, capsys, cifar):
    misspelt = {"extends": "quick", "finetune": {"augment": ["flipp"]}}
    assert "Did you mean 'flip'" in refused(tmp_path, capsys, recipe=misspelt)
    assert "sets 256 calibration images" in refused(tmp_path, capsys, methods=["taylor"])


def test_every_mistake_is_told_at_once(tmp_path, capsys, cifar, tree):
    (tree / "train" / "ant" / "0.JPEG").write_bytes(b"")
    (cifar / "test_batch").write_bytes(b"")
    said = refused(tmp_path, capsys, datasets=["cifar10", "imagefolder"])
    assert "test_batch: the file is cut short" in said
    assert "can't be read" in said


def test_a_plug_ins_own_fault_is_its_cells_and_nobody_elses(tmp_path, monkeypatch):
    (tmp_path / "asserting.py").write_text(
        "def net(num_classes, in_channels, image_size):\n    assert image_size == 224, 'made for 224 pixels'\n"
    )
    monkeypatch.chdir(tmp_path)
    stage = {"epochs": 1, "lr": 0.1}
    recipe = {"name": "short", "base": stage, "sparsify": stage, "finetune": stage}
    file = sweep(
        tmp_path, datasets=["digits"], models=["test-convnet", "asserting:net"], data_roots={}, recipe=recipe
    )  # fmt: skip
    assert main(["run", str(file), "--local", "--storage", str(tmp_path / "out")]) == 1
    rows = Store(open_storage(str(tmp_path / "out"))).table().to_pylist()
    assert {row["model"]: row["status"] for row in rows} == {"test-convnet": "ok", "asserting:net": "failed"}
