"""Photos of one's own: folders without splits, sizes that differ from the network's, weights that guess."""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pytest
from PIL import Image

from raybench.cli.prune_calibration import _say_once
from raybench.cli.prune_options import add_options, sweep_of
from raybench.datasets.class_counts import training_images
from raybench.datasets.enlarged import enlarged_line
from raybench.datasets.open import open_dataset
from raybench.errors import UserError
from raybench.pipeline.base import _warn_near_chance
from raybench.sweep.resolve import resolve


def photos(folder, classes=("a", "b", "c"), count=10, size=(16, 12)):
    """A folder for each class, with random pictures."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for place in range(count):
            pixels = rng.integers(0, 255, (size[1], size[0], 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{place}.png")
    return folder


def opened(root, **params):
    return open_dataset("imagefolder", params, root)


def test_class_folders_without_splits_are_split_by_the_seed(tmp_path):
    root = photos(tmp_path / "photos")
    with pytest.warns(
        UserWarning, match="no train/ and val/ in .*: 20% of each class for test, 10% of the rest for val"
    ):
        data = opened(root, image_size=12, split_seed=0)
    sizes = [len(getattr(data, name)) for name in ("train", "val", "test", "whole")]
    assert sizes == [21, 3, 6, 24]
    files = [set(getattr(data, name)._listing.files) for name in ("train", "val", "test")]
    assert len(set.union(*files)) == 30
    again, other = opened(root, image_size=12, split_seed=0), opened(root, image_size=12, split_seed=1)
    assert set(again.test._listing.files) == files[2] != set(other.test._listing.files)
    assert sorted(data.test.labels.tolist()) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("folders", "missing"),
    [
        ((), "found no train/ and val/ in"),
        (("photos",), "found no train/ and val/ in"),
        (("train",), "found no val/ in"),
        (("training", "validation"), "found no train/ and val/ in"),
        (("images", "labels"), "found no train/ and val/ in"),
        (("val", "cats"), "found no train/ in"),
    ],
)
def test_all_missing_folders_are_named_at_once(folders, missing, tmp_path):
    for name in folders:
        (tmp_path / name / "x").mkdir(parents=True)
    with pytest.raises(UserError, match=missing):
        opened(tmp_path)


def test_enlarged_photos_are_told(tmp_path):
    small = sorted(photos(tmp_path / "small").glob("*/*"))
    large = sorted(photos(tmp_path / "large", size=(40, 32)).glob("*/*"))
    assert "most images are 16x12 and are enlarged to 24" in enlarged_line(small, (24, 24), "x")
    assert "--image-size 12" in enlarged_line(small, (24, 24), "x")
    assert enlarged_line(small, (12, 12), "x") == ""
    assert enlarged_line([*large, *small[:5]], (24, 24), "x") == ""
    assert enlarged_line([], (24, 24), "x") == ""


@pytest.mark.parametrize(
    ("top1", "classes", "warns"), [(33.3, 3, True), (60, 3, False), (5, 1000, True), (8, 1000, False)]
)
def test_weights_that_guess_are_told(top1, classes, warns, recwarn):
    _warn_near_chance({"top1": top1}, classes)
    assert ["near chance" in str(one.message) for one in recwarn] == [True] * warns


def test_detection_has_no_chance(recwarn):
    _warn_near_chance({"mAP50-95": 0.0}, 80)
    assert not recwarn


@pytest.mark.parametrize("layout", ["split", "flat", "three"])
@pytest.mark.parametrize("count", [2, 7, 26])
def test_training_images_are_counted_without_opening_them(layout, count, tmp_path):
    folders = {"split": ("train", "val"), "flat": ("",), "three": ("train", "val", "test")}[layout]
    if layout == "flat":
        count += 3  # two splits of each class
    for name in folders:
        photos(tmp_path / name, count=count)
    (tmp_path / folders[0] / "a" / "notes.txt").write_text("no image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert training_images(tmp_path, {}) == len(opened(tmp_path, image_size=12).train)


def test_prune_takes_all_photos_where_the_recipe_wants_more(tmp_path, capsys):
    for name in ("train", "val"):
        photos(tmp_path / name)
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument("--device")
    command = ["--model", "test-convnet", "--dataset", "imagefolder", "--data-root", str(tmp_path), "--speedup", "2"]
    both = [*command, "--method", "magnitude-l2", "taylor", "cp(points=20)"]
    _say_once.cache_clear()
    found = {trial.importance.name: trial for trial in resolve(sweep_of(parser.parse_args(both)))}
    assert {name: trial.recipe.calibration_images for name, trial in found.items()} == {
        "magnitude-l2": 256, "taylor": 27, "cp": 27,
    }  # fmt: skip
    assert {trial.recipe.name for trial in found.values()} == {"photos"}, "one board ranks them all"
    assert capsys.readouterr().err == "calibration: all 27 training images; the recipe asks for 256\n"
    (alone,) = resolve(sweep_of(parser.parse_args(command)))
    assert alone.trial_id == found["magnitude-l2"].trial_id
    (typed,) = resolve(sweep_of(parser.parse_args([*command, "--method", "taylor", "--calibration-images", "40"])))
    assert typed.recipe.calibration_images == 40
