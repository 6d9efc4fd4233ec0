"""What YOLO's data YAML takes from outside the dataset's folder, so that it counts in the data's identity."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from raybench.datasets.tree import is_file
from raybench.datasets.yolo_lists import labels_of, lines_of, paths_of
from raybench.datasets.yolo_yaml import list_bases, named_places, read_yaml
from raybench.errors import UserError


def elsewhere(root: Path, params: Mapping[str, Any]) -> tuple[Path, ...]:
    """Folders and files outside `root` that the images and boxes depend on.

    Args:
        root: the folder of the dataset; what lies below it, through links too, isn't among them.
        params: parameters of the dataset; `data` names the YAML.

    Returns:
        Each place once, none below another, in the order in which the YAML and its lists name them. Places that
        aren't there are left out: reading the data says so.
    """
    inside = {Path(os.path.abspath(root)), root.resolve()}
    found: dict[Path, None] = {}
    for place in _places(root / str(params.get("data", "data.yaml")), inside):
        there = Path(os.path.abspath(place))
        if not any(there.is_relative_to(folder) for folder in inside):
            found[there] = None
    return tuple(place for place in found if not any(other in found for other in place.parents))


def _places(file: Path, inside: set[Path]) -> Iterator[Path]:
    """The YAML `file`, its folders of images and of labels, its lists and what they name."""
    if not file.is_file():
        return
    yield file
    with suppress(UserError):
        content = read_yaml(file)
        for key in ("train", "val", "test"):
            with suppress(UserError):
                for place in named_places(content, key, file) if content.get(key) else ():
                    yield from _folder(place) if place.is_dir() else _listed(place, list_bases(content, file), inside)


def _folder(images: Path) -> Iterator[Path]:
    """A folder of images and, where it is another one, that of their labels."""
    yield images
    labels = labels_of(images.resolve())
    if labels and labels.is_dir():
        yield labels


def _listed(file: Path, bases: list[Path], inside: set[Path]) -> Iterator[Path]:
    """A list and the folders of its images; the image and its labels alone where the folder holds the whole dataset.

    A folder is looked for once, not once for each of its images: lists have a hundred thousand lines.
    """
    yield file
    lines: dict[str, list[str]] = {}
    for line in lines_of(file):
        lines.setdefault(os.path.dirname(line.replace("\\", "/")), []).append(line)
    starts = (file.resolve().parent, *bases)
    for folder, images in lines.items():
        for place in paths_of(folder, starts):
            if not any(one.is_relative_to(place) for one in inside):
                yield from _folder(place) if place.is_dir() else ()
                continue
            for image in filter(is_file, (place / os.path.basename(line.replace("\\", "/")) for line in images)):
                text = (labels_of(place) or place) / image.with_suffix(".txt").name
                yield from filter(is_file, (image, text))
