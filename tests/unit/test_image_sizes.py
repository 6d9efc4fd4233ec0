"""Images that aren't square: how their size is typed, read, cropped, given to networks, and what ids make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from raybench import registry
from raybench.cli.main import main
from raybench.datasets.enlarged import enlarged_line
from raybench.datasets.facts import DataFacts
from raybench.datasets.files import FileImages, list_classes
from raybench.datasets.open import open_dataset
from raybench.errors import UserError
from raybench.image_size import canonical, read_size, sides, written
from raybench.models.build import build_model
from raybench.pipeline.network import example_of
from raybench.sweep.axes import resolved

FACTS = DataFacts("any", "classification", 4, 3, (24, 40), (0.5,) * 3, (0.5,) * 3, "")
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """Class folders of pictures 40 wide and 30 high, whose brightness grows from left to right."""
    list_classes.cache_clear()
    ramp = np.tile(np.linspace(0, 250, 40).astype("uint8")[None, :, None], (30, 1, 3))
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(10):
                Image.fromarray(ramp).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "size"),
    [
        (64, 64),
        ("64x64", 64),
        ("128x96", (96, 128)),
        ("96X128", (128, 96)),
        (" 8 x 9 ", (9, 8)),
        ("0128x096", (96, 128)),
    ],
)
def test_a_size_is_width_x_height(typed, size) -> None:
    assert read_size(typed) == size
    assert read_size(written(size)) == size
    assert canonical(typed) == written(size)


@pytest.mark.parametrize(
    "typed", ["", "wide", "x", "3x", "x3", "0x4", "3x4x5", "-3x4", 0, -1, True, 1.5, None, "99999x9"]
)
def test_what_is_no_size_is_refused(typed) -> None:
    assert read_size(typed) is None
    wrong = registry.dataset.entry("imagefolder").misfit("image_size", typed)
    assert "expected a number of pixels such as 224, or WIDTHxHEIGHT such as 128x96" in wrong


def test_a_square_has_the_id_it_always_had() -> None:
    entry = registry.dataset.entry("imagefolder")
    assert resolved(entry, {"image_size": "64x64"}) == resolved(entry, {"image_size": 64})
    assert resolved(entry, {})["image_size"] == 224
    assert resolved(entry, {"image_size": "0128x96"})["image_size"] == "128x96"


def test_pictures_are_cropped_to_the_size_not_squeezed(folder) -> None:
    data = open_dataset("imagefolder", {"image_size": "20x10"}, folder)
    assert data.facts.image_shape == (3, 10, 20)
    (batch,) = data.test.batches([torch.arange(4)], CPU, None)
    assert batch.shape == (4, 3, 10, 20)
    high = FileImages(list_classes(folder / "val", "x", 0.0), (20, 10))
    (tall,) = high.batches([torch.arange(1)], CPU, None)
    seen = [float(one[0, 0, 0, -1] - one[0, 0, 0, 0]) for one in (batch, tall)]
    assert seen[0] > 1.8 * seen[1]  # the wide crop sees the whole width, the high one 15 of 40 pixels
    (crops,) = data.train.batches(
        [torch.arange(3)], CPU, [torch.rand(3, 4, generator=torch.Generator().manual_seed(0))]
    )
    assert crops.shape == (3, 3, 10, 20)


@pytest.mark.parametrize(
    "name", ["test-convnet", "vit-nano", "cifar-vgg16-bn", "cifar-resnet20", "timm:vit_tiny_patch16_224", "resnet18"]
)
def test_networks_are_built_for_the_size(name) -> None:
    data = replace(FACTS, image_size=(32, 64))
    model = build_model(name, data).eval()
    with torch.no_grad():
        assert model(example_of(data, CPU)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "found 40x24 pixels"),
        ("timm:vit_tiny_patch16_224", "an image of 40x24 pixels is not a whole number"),
    ],
)
def test_a_side_that_is_too_small_or_no_multiple_is_named(name, said) -> None:
    with pytest.raises(UserError, match=said):
        build_model(name, FACTS)


def test_a_function_of_ones_own_gets_height_and_width(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "from torch import nn\ndef net(image_size, num_classes):\n    h, w = image_size\n"
    code += "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * h * w, num_classes))\n"
    (tmp_path / "sized_net.py").write_text(code)
    assert build_model("sized_net:net", FACTS)(example_of(FACTS, CPU)).shape == (1, 4)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((24, 32), ""),
        ((24, 60), "most images are 40x30 and are enlarged to 60x24; .*--image-size 40x30"),
        ((40, 24), "most images are wider than high, such as 40x30, and image_size 24x40 .width x height. isn't"),
        ((224, 224), "enlarged to 224; .*--image-size 30"),
    ],
)
def test_photos_that_dont_cover_the_size_are_told(folder, size, said) -> None:
    import re

    line = enlarged_line(sorted((folder / "val").glob("*/*")), size, "x")
    assert re.search(said, line) if said else line == ""


@pytest.mark.parametrize("verb", [["prune", "--model", "test-convnet", "--speedup", "2"], ["inspect", "test-convnet"]])
def test_a_wrong_size_is_told_at_once(verb, capsys) -> None:
    with pytest.raises(SystemExit):
        main([*verb, "--image-size", "3x"])
    assert "--image-size: found '3x', expected a number of pixels such as 224" in capsys.readouterr().err


def test_inspect_takes_a_size(capsys) -> None:
    macs = {}
    for size in ("8", "16x8", "8x16"):
        assert main(["inspect", "test-convnet", "--image-size", size, "--format", "json"]) == 0
        macs[size] = int(capsys.readouterr().out.partition('"macs": ')[2].partition(",")[0])
    assert macs["16x8"] == macs["8x16"] > 1.9 * macs["8"]
    assert sides(8) == (8, 8)
