"""Where YOLO's layout keeps things: the images that a text file lists, and the labels of a folder of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from raybench.datasets.yolo_labels import text_of_file


def lines_of(file: Path) -> list[str]:
    """The paths that the list `file` names, one a line, without comments; UserError when it is no UTF-8 text."""
    lines = [line.strip() for line in text_of_file(file, "the path of an image in every line").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def paths_of(line: str, bases: Sequence[Path]) -> Iterator[Path]:
    """Where the image of a line may be, the likeliest first; `bases`: folders that it may start from."""
    for spelling in dict.fromkeys((line, line.replace("\\", "/"))):
        for base in bases:
            yield Path(os.path.normpath(base / spelling))


def labels_of(folder: Path) -> Path | None:
    """The folder of the labels for images in `folder`; None where no folder on its way is called `images`."""
    parts = folder.parts
    if "images" not in parts:
        return None
    place = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:place], "labels", *parts[place + 1 :])
