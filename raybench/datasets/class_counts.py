"""How many images of class folders are for training, counted from file names: before torch is there to open them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raybench.datasets.image_files import ENDINGS
from raybench.datasets.tree import class_folders, files_below, folders_in

TEST_SHARE = 0.2  # of each class, where the folder has no splits


def held_out(count: int, share: float) -> int:
    """How many of `count` images of a class a split takes: a `share`, rounded, at least one.

    Example:
        >>> held_out(24, 0.1), held_out(3, 0.1)
        (2, 1)
    """
    return max(1, round(share * count))


def training_images(root: Path, params: Mapping[str, Any]) -> int:
    """The images of the training split; files that don't decode, which are left out later, are counted.

    Args:
        root: folder of the dataset.
        params: the dataset's parameters, of which `val_share` counts.

    Raises:
        UserError: there are neither train/ and val/ nor class folders.
    """
    names = class_folders(root)
    shares = [TEST_SHARE] * (len(names) == 1) + [float(params.get("val_share", 0.1))] * (len(names) < 3)
    total = 0
    for label in folders_in(root / names[0]):
        found = sum(file.suffix.lower() in ENDINGS for file in files_below(root / names[0] / label))
        for share in shares:
            found -= held_out(found, share)
        total += max(0, found)
    return total
