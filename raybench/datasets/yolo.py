"""YOLO's layout: a data YAML with class names and image folders, and one text file of boxes for each image."""

from __future__ import annotations

import math
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
from raybench.sweep.nodes import parse

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


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
    figure and `val_share` of the training images, drawn by the seed, selects the epoch.
    """
    assert root is not None  # data_root gives a folder for every dataset that is not embedded
    content = _read_yaml(root / data)
    names = _names(content, root / data)
    facts = replace(facts, classes=len(names), image_size=image_size)
    wanted = ("train", "val", "test") if content.get("test") else ("train", "val")
    splits = tuple(_Split(_folder(content, key, root / data), names) for key in wanted)

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

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder, self.names = folder, names
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
        return tuple(sorted(self.labels.glob("*.txt")))

    def read(self) -> Labelled:
        """Every image and box, checked; images without a text file have no boxes."""
        collector = Collector(str(self.folder), len(self.names))
        files = sorted(file for file in self.folder.iterdir() if file.suffix.lower() in IMAGES)
        for file in files:
            size = size_of(file)
            if size is None:
                collector.counts["broken image files left out"] += 1
                continue
            number = len(collector.images)
            collector.add_image(file.name, *size)
            text = self.labels / f"{file.stem}.txt"
            if not text.is_file():
                collector.counts["images without a text file, treated as without boxes"] += 1
                continue
            for line, row in enumerate(text.read_text().splitlines(), 1):
                if row.strip():
                    label, corners = self._box(row, size, f"{text}:{line}")
                    collector.add_box(number, corners, label, False)
        stems = {file.stem for file in files}
        unused = sum(text.stem not in stems for text in self.labels.glob("*.txt"))
        if unused:
            collector.counts["text files without an image, not used"] += unused
        return Labelled(self.names, collector.finish(self.folder))

    def _box(self, row: str, size: tuple[int, int], where: str) -> tuple[int, tuple[float, ...]]:
        """(class, corners in pixels) of a line `class x y width height`, shares of the image."""
        try:
            label, *numbers = (float(word) for word in row.split())
        except ValueError as error:
            raise UserError(f"{where}: found {row!r}; expected numbers: class x y width height") from error
        if len(numbers) != 4:
            raise UserError(f"{where}: found {len(numbers) + 1} numbers; expected 5: class x y width height")
        if label != int(label) or not 0 <= label < len(self.names):
            raise UserError(f"{where}: class {label:g} is none of the {len(self.names)} that the YAML names")
        if max(numbers) > 2 and math.isfinite(max(numbers)):
            raise UserError(f"{where}: found {max(numbers):g}; expected shares of the image, 0 to 1, not pixels")
        x, y, width, height = numbers
        tall, wide = size
        return int(label), (
            (x - width / 2) * wide,
            (y - height / 2) * tall,
            (x + width / 2) * wide,
            (y + height / 2) * tall,
        )


def _read_yaml(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise UserError(f"found no {file}; expected a YAML with names, train and val")
    return parse(file).plain()


def _names(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """Class names, from a list or a mapping of 0..n-1."""
    names = content.get("names")
    if isinstance(names, Mapping):
        wanted = list(map(str, range(len(names))))
        if set(names) != set(wanted):
            raise UserError(f"{file}: names has the keys {', '.join(list(names)[:5])}; expected 0 to {len(names) - 1}")
        names = [names[key] for key in wanted]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file}: found no names; expected a list of class names")
    if content.get("nc") not in (None, len(names)):
        raise UserError(f"{file}: nc is {content['nc']}, but there are {len(names)} names")
    return tuple(map(str, names))


def _folder(content: Mapping[str, Any], key: str, file: Path) -> Path:
    """The folder of a split: relative to the YAML's `path` if that exists, otherwise to the YAML's own folder."""
    if not isinstance(content.get(key), str):
        raise UserError(f"{file}: {key} is {content.get(key)!r}; expected one folder of images")
    bases = [file.parent / str(content["path"])] if content.get("path") else []
    for base in (*bases, file.parent):
        if (base / content[key]).is_dir():
            return (base / content[key]).resolve()
    raise UserError(f"{file}: {key}: found no folder {file.parent / content[key]}")
