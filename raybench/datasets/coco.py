"""COCO's layout: folders of images, and one instances JSON for each in `annotations/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybench.datasets.boxes import BoxData, Collector, held_out
from raybench.datasets.facts import DataFacts
from raybench.datasets.image_files import size_of
from raybench.datasets.label_cache import Labelled, LabelSource
from raybench.errors import UserError
from raybench.registry import dataset


@dataset(
    "coco",
    task="detection",
    classes=80,
    in_channels=3,
    image_size=640,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    licence="annotations CC BY 4.0, images under Flickr's terms",
)
def coco(
    facts: DataFacts,
    root: Path | None,
    *,
    image_size: int = 640,
    train: str = "train2017",
    test: str = "val2017",
    val_share: float = 0.04,
    split_seed: int = 0,
) -> LabelSource:
    """COCO, or data laid out like it. `test` (COCO's published validation images) gives the final figure.

    `val_share` of the training images, drawn by the seed and not trained on, selects the epoch.
    """
    assert root is not None  # data_root gives a folder for every dataset that is not embedded
    facts = replace(facts, image_size=image_size)
    splits = [_Split(root / name, root / "annotations" / f"instances_{name}.json") for name in (train, test)]
    for split in splits:
        split.check()

    def opened(found: list[Labelled]) -> BoxData:
        labelled, tested = found
        if labelled.names != tested.names:
            raise UserError(f"dataset {facts.name!r}: {splits[0].json} and {splits[1].json} have different categories")
        rest, val = held_out(labelled.images, val_share, split_seed, facts.name)
        note = f"{1 - val_share:.0%}/{val_share:.0%} of {train} for train/val, seed {split_seed}; test is {test}"
        full = replace(facts, classes=len(labelled.names))
        return BoxData(full, labelled.names, rest, val, tested.images, note).checked()

    return LabelSource(facts, tuple(splits), opened)


class _Split:
    """One folder of images with its JSON."""

    def __init__(self, folder: Path, json_file: Path) -> None:
        self.folder, self.json = folder, json_file

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files whose content the labels depend on."""
        return (self.json,)

    def check(self) -> None:
        """UserError unless the folder and the JSON are there."""
        if not self.json.is_file():
            raise UserError(f"found no {self.json}; expected COCO's instances of the images in {self.folder}")
        if not self.folder.is_dir():
            raise UserError(f"found no folder {self.folder} with the images of {self.json.name}")

    def read(self) -> Labelled:
        """Every image and box, checked."""
        try:
            found = json.loads(self.json.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{self.json}: not JSON: {error}") from error
        return read_instances(found, str(self.json), self.folder)


def read_instances(found: Any, where: str, folder: Path) -> Labelled:
    """The images and boxes of a COCO instances dict whose files lie in `folder`.

    UserError for another schema or a category that isn't declared. Images that are missing or broken, and boxes that
    are invalid or refer to no image, are left out, counted and logged.
    """
    _check_schema(found, where)
    names, label_of = _categories(found["categories"], where)
    collector = Collector(where, len(names))
    index_of = _images(found["images"], where, folder, collector)
    for place, annotation in enumerate(found["annotations"]):
        image, category = annotation["image_id"], annotation["category_id"]
        if category not in label_of:
            raise UserError(
                f"{where}: annotations[{place}] has category_id {category!r}, which `categories` doesn't declare "
                f"({len(label_of)} ids from {min(label_of)} to {max(label_of)})"
            )
        if image not in index_of:
            collector.counts["boxes of an image without a record left out"] += 1
            continue
        index = index_of[image]
        if index is None:
            continue  # its image is missing or broken, and was counted
        x, y, width, height = _box(annotation["bbox"], f"{where}: annotations[{place}]")
        collector.add_box(index, (x, y, x + width, y + height), label_of[category], bool(annotation.get("iscrowd")))
    if not collector.images:
        raise UserError(f"{where}: none of its {len(index_of)} images is a readable file in {folder}")
    _count_unused(found["images"], folder, collector)
    return Labelled(names, collector.finish(folder))


def _check_schema(found: Any, where: str) -> None:
    if isinstance(found, list):
        raise UserError(f"{where}: found a list, which is how COCO writes detection *results*; expected instances")
    for key, needs in (
        ("images", ("id", "file_name")),
        ("categories", ("id", "name")),
        ("annotations", ("image_id", "category_id", "bbox")),
    ):
        rows = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(rows, list):
            raise UserError(
                f"{where}: found no list {key!r}; expected COCO instances with images, annotations, categories"
            )
        for place, row in enumerate(rows):
            lacking = [need for need in needs if not isinstance(row, Mapping) or need not in row]
            if lacking:
                raise UserError(f"{where}: {key}[{place}] has no {lacking[0]!r}; expected COCO's {', '.join(needs)}")


def _categories(rows: list[Mapping[str, Any]], where: str) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(class names, category id -> class index), by ascending id: 1..90 with gaps becomes 0..79."""
    ids = [row["id"] for row in rows]
    twice = [key for key in ids if ids.count(key) > 1]
    if not rows or twice:
        raise UserError(f"{where}: " + (f"category id {twice[0]} is there twice" if twice else "`categories` is empty"))
    rows = sorted(rows, key=lambda row: row["id"])
    return tuple(str(row["name"]) for row in rows), {row["id"]: label for label, row in enumerate(rows)}


def _images(rows: list[Mapping[str, Any]], where: str, folder: Path, collector: Collector) -> dict[Any, int | None]:
    """Image id -> number in the collector, None for an image that is left out."""
    index_of: dict[Any, int | None] = {}
    files: set[str] = set()
    for row in rows:
        name = str(row["file_name"])
        if row["id"] in index_of or name in files:
            raise UserError(f"{where}: image id {row['id']} or file {name!r} is there twice")
        files.add(name)
        file = folder / name
        index_of[row["id"]] = None
        if not file.is_file():
            collector.counts["images of the JSON not found in the folder, left out"] += 1
            continue
        size = size_of(file)
        if size is None:
            collector.counts["broken image files left out"] += 1
            continue
        recorded = row.get("height", size[0]), row.get("width", size[1])
        if recorded != size:
            collector.counts["images of another size than their record, left out"] += 1
            continue
        index_of[row["id"]] = len(collector.images)
        collector.add_image(name, *size)
    return index_of


def _box(value: Any, where: str) -> list[float]:
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(v, (int, float)) for v in value):
        raise UserError(f"{where}: bbox is {value!r}; expected [x, y, width, height] in pixels")
    return list(map(float, value))


def _count_unused(rows: list[Mapping[str, Any]], folder: Path, collector: Collector) -> None:
    """Count the image files that have no record."""
    known = {str(row["file_name"]) for row in rows}
    files = (file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    unused = sum(file.name not in known for file in files)
    if unused:
        collector.counts["image files without a record, not used"] += unused
