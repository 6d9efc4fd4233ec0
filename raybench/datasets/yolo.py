"""YOLO's layout: a data YAML with class names and image folders, and one text file of boxes for each image."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from raybench.datasets.boxes import BoxData, Collector, held_out
from raybench.datasets.facts import DataFacts
from raybench.datasets.image_files import is_image, look_at_all
from raybench.datasets.label_cache import Labelled, LabelSource
from raybench.datasets.tree import counted_by_ending, files_below, shared_folders, warn_once
from raybench.datasets.yolo_labels import boxes_of
from raybench.datasets.yolo_yaml import class_names, read_yaml, split_folder
from raybench.errors import UserError
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

    With a `test` folder, `val` selects the epoch and `test` gives the final figure. Without one, `val` gives the final
    figure and `val_share` of the training images, drawn by the seed, selects the epoch. Labels belong to the picture
    that EXIF's orientation makes upright.
    """
    assert root is not None  # data_root gives a folder for every dataset that is not embedded
    content = read_yaml(root / data)
    names = class_names(content, root / data)
    facts = replace(facts, classes=len(names), image_size=image_size)
    wanted = ("train", "val", "test") if content.get("test") else ("train", "val")
    folders = {key: split_folder(content, key, root / data) for key in wanted}
    warn_once(shared_folders(folders, facts.name))
    splits = tuple(_Split(folder, names, folders.values()) for folder in folders.values())

    def opened(found: list[Labelled]) -> BoxData:
        parts = [labelled.images for labelled in found]
        if len(parts) == 3:
            train, val, test = parts
            return BoxData(facts, names, train, val, test, split_note=f"train, val and test of {data}").checked()
        train, test = parts
        rest, val = held_out(train, val_share, split_seed, facts.name)
        note = f"{val_share:.0%} of train held out as val, seed {split_seed}; test is {data}'s val"
        return BoxData(facts, names, rest, val, test, note).checked()

    return LabelSource(facts, splits, opened)


class _Split:
    """One folder of images; its labels are in the folder of the same name below `labels`."""

    def __init__(self, folder: Path, names: tuple[str, ...], without: Collection[Path] = ()) -> None:
        """`without`: folders of other splits, which may lie below this one."""
        self.folder, self.names = folder, names
        self._without = [other for other in without if other != folder]
        parts = list(folder.parts)
        if "images" not in parts:
            raise UserError(
                f"{folder}: expected a folder below one called 'images', with labels below 'labels' beside it"
            )
        place = len(parts) - 1 - parts[::-1].index("images")
        self.labels = Path(*parts[:place], "labels", *parts[place + 1 :])
        if not self.labels.is_dir():
            raise UserError(f"found no folder {self.labels} with the boxes of the images in {folder}")

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files whose content the labels depend on."""
        return tuple(sorted(file for file in files_below(self.labels) if file.suffix == ".txt"))

    def read(self) -> Labelled:
        """Every image and box, checked; images without a text file have no boxes. Subfolders are read, too."""
        collector = Collector(str(self.folder), len(self.names))
        there = sorted(files_below(self.folder, self._without))
        files = [file for file in there if is_image(file)]
        collector.note_unused(counted_by_ending(file for file in there if not is_image(file)))
        for file, seen in zip(files, look_at_all(files, self.folder), strict=True):
            name = file.relative_to(self.folder).as_posix()
            if seen.problem:
                collector.leave_out(name, seen.problem)
                continue
            collector.add_image(name, *seen.upright, seen.turn)
            self._add_boxes(collector, self._text_of(file), seen.upright)
        texts = {self._text_of(file) for file in files}
        others = [self._other_labels(other) for other in self._without]
        unused = sum(text not in texts and not any(text.is_relative_to(o) for o in others) for text in self.sources)
        collector.note_unused({"text files without an image": unused} if unused else {})
        return Labelled(self.names, collector.finish(self.folder))

    def _add_boxes(self, collector: Collector, text: Path, size: tuple[int, int]) -> None:
        """Add the boxes of `text` to the last image, of `size` (height, width)."""
        if not os.path.lexists(text):
            collector.counts["images without a text file, treated as without boxes"] += 1
            return
        tall, wide = size
        for box in boxes_of(text, len(self.names)):
            collector.counts["polygons of which the enclosing box was taken"] += box.polygon
            x1, y1, x2, y2 = box.corners
            corners = x1 * wide, y1 * tall, x2 * wide, y2 * tall
            collector.add_box(len(collector.images) - 1, corners, box.label, False)

    def _text_of(self, image: Path) -> Path:
        return self.labels / image.relative_to(self.folder).with_suffix(".txt")

    def _other_labels(self, folder: Path) -> Path:
        """The labels of another split's folder below this one."""
        inside = folder.is_relative_to(self.folder)
        return self.labels / folder.relative_to(self.folder) if inside else folder / "none"
