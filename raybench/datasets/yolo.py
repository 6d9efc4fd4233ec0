"""YOLO's layout: a data YAML with class names and image folders, and one text file of boxes for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from raybench.datasets.boxes import BoxData, BoxImages, held_out
from raybench.datasets.facts import DataFacts
from raybench.datasets.label_cache import Labelled, LabelSource
from raybench.datasets.tree import shared_folders, warn_once
from raybench.datasets.yolo_split import YoloSplit
from raybench.datasets.yolo_yaml import class_names, list_bases, read_yaml, split_places
from raybench.errors import counted
from raybench.registry import dataset


@dataset(
    "yolo",
    task="detection",
    classes=0,
    in_channels=3,
    image_size=640,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    licence="the user's own data",
    user_data=True,
    elsewhere="raybench.datasets.yolo_elsewhere:elsewhere",
    version=2,  # 2: EXIF orientation, more endings, images in subfolders
)
def yolo(
    facts: DataFacts,
    root: Path | None,
    *,
    image_size: int = 640,
    data: str = "data.yaml",
    val_share: float = 0.1,
    split_seed: int = 0,
) -> LabelSource:
    """The user's images and boxes, as the YAML `data` in the folder lists them (`names`, `train`, `val`, maybe `test`).

    A split is a folder of images, a `.txt` file that lists them, or a list of these.

    With a `test` folder, `val` selects the epoch and `test` gives the final figure. Without one, `val` gives the final
    figure and `val_share` of the training images, drawn by the seed, selects the epoch. Labels belong to the picture
    that EXIF's orientation makes upright.
    """
    assert root is not None  # data_root gives a folder for every dataset that is not embedded
    content = read_yaml(root / data)
    names = class_names(content, root / data)
    facts = replace(facts, classes=len(names), image_size=image_size)
    wanted = ("train", "val", "test") if content.get("test") else ("train", "val")
    places = {key: split_places(content, key, root / data) for key in wanted}
    folders = {place for found in places.values() for place in found if place.is_dir()}
    bases = list_bases(content, root / data)
    splits = {key: YoloSplit(found, names, folders, bases) for key, found in places.items()}
    warn_once(shared_folders({key: found[0] for key, found in places.items() if len(found) == 1}, facts.name))

    def opened(found: list[Labelled]) -> BoxData:
        parts = [labelled.images for labelled in found]
        warn_once(_shared_images(dict(zip(wanted, parts, strict=True)), facts.name))
        if len(parts) == 3:
            train, val, test = parts
            note = f"train, val and test of {data}"
            return BoxData(facts, names, train, val, test, split_note=note, own_val=True).checked()
        train, test = parts
        rest, val = held_out(train, val_share, split_seed, facts.name)
        note = f"{val_share:.0%} of train held out as val, seed {split_seed}; test is {data}'s val"
        return BoxData(facts, names, rest, val, test, note).checked()

    return LabelSource(facts, tuple(splits.values()), opened)


def _shared_images(splits: Mapping[str, BoxImages], dataset: str) -> str:
    """A line about images that are in `train` and in another split, by path; empty when none are."""
    paths = {name: {images.folder / file for file in images.files} for name, images in splits.items() if images.folder}
    train = paths.pop("train", set())
    both = {name: len(train & found) for name, found in paths.items() if train & found}
    if not both or any(
        both[name] == len(train) == len(paths[name]) for name in both
    ):  # all: `tree` warns of equal folders
        return ""
    named = ", ".join(f"{counted(count, 'image')} of {name}" for name, count in both.items())
    return f"dataset {dataset!r}: {named} in train, too: figures are measured on images that were trained on"
