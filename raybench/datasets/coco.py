"""COCO's layout: folders of images, and one instances JSON for each in `annotations/`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybench.datasets.boxes import BoxData, Collector, held_out
from raybench.datasets.coco_records import box_of, categories_of, check_schema, is_crowd, read_json, shown
from raybench.datasets.facts import DataFacts
from raybench.datasets.image_files import Seen, huge_line, is_image, look_at_all
from raybench.datasets.label_cache import Labelled, LabelSource
from raybench.datasets.tree import counted_by_ending, files_below, is_file, shared_folders, warn_once
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
    names_files="annotations/instances_*.json",
    version=2,  # 2: images stored turned are read upright where the annotations are of the upright picture
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

    Labels belong to the pictures as stored, or, where the recorded sizes say so, as EXIF's orientation turns them.

    `val_share` of the training images, drawn by the seed and not trained on, selects the epoch.
    """
    assert root is not None  # data_root gives a folder for every dataset that is not embedded
    facts = replace(facts, image_size=image_size)
    splits = [_Split(root / name, root / "annotations" / f"instances_{name}.json") for name in (train, test)]
    for split in splits:
        split.check()
    warn_once(shared_folders({train: splits[0].folder, test: splits[1].folder}, facts.name))

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

    @property
    def files(self) -> Iterable[Path]:
        """The files whose names and sizes the labels depend on."""
        return files_below(self.folder)

    def check(self) -> None:
        """UserError unless the folder and the JSON are there."""
        if not self.json.is_file():
            raise UserError(f"found no {self.json}; expected COCO's instances of the images in {self.folder}")
        if not self.folder.is_dir():
            raise UserError(f"found no folder {self.folder} with the images of {self.json.name}")

    def read(self) -> Labelled:
        """Every image and box, checked."""
        return read_instances(read_json(self.json), str(self.json), self.folder)


def read_instances(found: Any, where: str, folder: Path) -> Labelled:
    """The images and boxes of a COCO instances dict whose files lie in `folder`.

    UserError for another schema or a category that isn't declared. Images that are missing or broken, and boxes that
    are invalid or refer to no image, are left out, counted and logged.
    """
    check_schema(found, where)
    names, label_of = categories_of(found["categories"], where)
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
        crowd = is_crowd(annotation.get("iscrowd"), f"{where}: annotations[{place}]")
        x, y, width, height = box_of(annotation["bbox"], f"{where}: annotations[{place}]")
        collector.add_box(index, (x, y, x + width, y + height), label_of[category], crowd)
    if not collector.images:
        raise UserError(f"{where}: {_why_none(found['images'], folder, collector)}")
    _count_unused(found["images"], folder, collector)
    return Labelled(names, collector.finish(folder))


def _images(rows: list[Mapping[str, Any]], where: str, folder: Path, collector: Collector) -> dict[Any, int | None]:
    """Image id -> number in the collector, None for an image that is left out."""
    index_of: dict[Any, int | None] = {}
    files: set[str] = set()
    for row in rows:
        name = row["file_name"]
        if row["id"] in index_of or name in files:
            raise UserError(f"{where}: image id {shown(row['id'])} or file {name!r} is there twice")
        files.add(name)
        index_of[row["id"]] = None
    there = [row for row in rows if is_file(folder / row["file_name"])]
    if len(there) < len(rows):
        collector.counts["images of the JSON not found in the folder, left out"] += len(rows) - len(there)
    paths = [folder / row["file_name"] for row in there]
    looks = look_at_all(paths, folder)
    collector.warn(huge_line(paths, looks))
    upright = _are_upright(there, looks)
    for row, seen in zip(there, looks, strict=True):
        name = row["file_name"]
        if seen.problem:
            collector.leave_out(name, seen.problem)
        elif (turn := _turn(row, seen, upright)) is None:
            collector.counts["images of another size than their record, left out"] += 1
        else:
            index_of[row["id"]] = len(collector.images)
            collector.add_image(name, *(seen.upright if turn != 1 else (seen.height, seen.width)), turn)
    return index_of


def _turn(row: Mapping[str, Any], seen: Seen, upright: bool) -> int | None:
    """How an image is turned so that it has the recorded size: EXIF's orientation, 1 for not at all; None: by none.

    `upright`: whether the records of this file are of upright pictures, which decides where both ways have that size.
    """
    stored = seen.height, seen.width
    recorded = row.get("height", seen.upright[0]), row.get("width", seen.upright[1])
    if recorded == seen.upright and (stored != seen.upright or upright):
        return seen.turn
    return 1 if recorded == stored else None


def _are_upright(rows: list[Mapping[str, Any]], looks: list[Seen]) -> bool:
    """Whether the records are those of the pictures that EXIF's orientation makes upright.

    COCO's own are those of the pictures as stored. Records of turned pictures that aren't square show it; the others,
    half-turned and square ones, are then taken to be alike.
    """
    shown = [(row, seen) for row, seen in zip(rows, looks, strict=True) if seen.upright != (seen.height, seen.width)]
    upright = sum((row.get("height"), row.get("width")) in (seen.upright, (None, None)) for row, seen in shown)
    return upright > len(shown) - upright


def _why_none(rows: list[Mapping[str, Any]], folder: Path, collector: Collector) -> str:
    """Why none of the images can be used."""
    for place, row in enumerate(rows):
        name = row["file_name"].replace("\\", "/")
        bare = name.rpartition("/")[2]
        if bare != row["file_name"] and bare and is_file(folder / bare):
            return (
                f"its file names carry a folder: images[{place}] is {row['file_name']!r}, but {bare} lies in {folder}; "
                "expected names relative to that folder"
            )
    broken = f" ({', '.join(collector.broken[:3])})" if collector.broken else ""
    return f"none of the images that it lists ({len(rows)}) is a readable file in {folder}{broken}"


def _count_unused(rows: list[Mapping[str, Any]], folder: Path, collector: Collector) -> None:
    """Count the files that have no record."""
    known = {os.path.normpath(folder / row["file_name"]) for row in rows}
    unused = [file for file in files_below(folder) if os.path.normpath(file) not in known]
    images = sum(map(is_image, unused))
    collector.note_unused({"image files without a record": images} if images else {})
    collector.note_unused(counted_by_ending(file for file in unused if not is_image(file)))
