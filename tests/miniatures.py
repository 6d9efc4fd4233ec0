"""Datasets in their real formats, a few images small."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np


def rows(count: int, key: str = "labels", classes: int = 10) -> dict[str, Any]:
    """What one of CIFAR's pickles holds: random pixels, labels in turn."""
    draw = np.random.default_rng(0)
    return {
        "data": draw.integers(0, 256, (count, 3072), dtype=np.uint8),
        key: [index % classes for index in range(count)],
        "filenames": [f"{index}.png" for index in range(count)],
        "batch_label": "a batch",
    }


def cifar10(root: Path, train: int, test: int) -> Path:
    """The folder of a CIFAR-10 below `root`: five batches of `train` images, a test batch of `test`."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, count in (("test_batch", test), *((f"data_batch_{number}", train) for number in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(rows(count), protocol=2))
    return folder
