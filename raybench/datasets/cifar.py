"""CIFAR-10 and CIFAR-100 in their authors' format: Python pickles of uint8 rows, channels first."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.datasets.pickles import read_pickle
from raybench.datasets.splits import stratified
from raybench.datasets.statistics import with_statistics
from raybench.errors import UserError, counted
from raybench.registry import dataset

SIDE, ROW = 32, 3 * 32 * 32  # pixels of an image's side; bytes of an image
FULL = 10_000  # images of a whole CIFAR-10 file


@dataset(
    "cifar10",
    reads="cifar-10-batches-py",
    task="classification",
    classes=10,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    in_channels=3,
    image_size=32,
    mean=(0.485, 0.456, 0.406),  # ImageNet's: the published CIFAR ResNets were trained with them
    std=(0.229, 0.224, 0.225),
    licence="no formal licence; cite Krizhevsky 2009",
)
def cifar10(
    facts: DataFacts, root: Path | None, *, val_share: float = 0.1, split_seed: int = 0, statistics: str = "own"
) -> Data:
    """60,000 colour images of 10 classes; `statistics: cifar10` normalises with its own mean and deviation."""
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    return _open(facts, root, "cifar-10-batches-py", batches, "test_batch", "labels", val_share, split_seed, statistics)


@dataset(
    "cifar100",
    reads="cifar-100-python",
    task="classification",
    classes=100,
    in_channels=3,
    image_size=32,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    licence="no formal licence; cite Krizhevsky 2009",
)
def cifar100(
    facts: DataFacts, root: Path | None, *, val_share: float = 0.1, split_seed: int = 0, statistics: str = "own"
) -> Data:
    """60,000 colour images of 100 classes (the fine labels)."""
    return _open(facts, root, "cifar-100-python", ["train"], "test", "fine_labels", val_share, split_seed, statistics)


def _open(
    facts: DataFacts,
    root: Path | None,
    folder: str,
    batches: Sequence[str],
    test_file: str,
    key: str,
    val_share: float,
    split_seed: int,
    statistics: str,
) -> Data:
    """Open either dataset; `root` is the folder that holds `folder`, or `folder` itself."""
    assert root is not None  # data_root gives a folder for every dataset that is not embedded
    where = _folder(root, folder, test_file, facts.name)
    facts = with_statistics(facts, statistics)
    there = [name for name in batches if (where / name).is_file()]
    if not there:
        raise UserError(f"dataset {facts.name!r}: found none of {', '.join(batches)} in {where}")
    parts = [_read(where / name, key, facts.classes) for name in (*there, test_file)]
    if len(there) < len(batches):
        _report_missing(where, batches, there, max(len(labels) for _, labels in parts[:-1]), facts.name)
    labels = torch.cat([part[1] for part in parts])
    pixels = Pixels(torch.cat([part[0] for part in parts]))
    count = len(labels) - len(parts[-1][1])
    train, val = stratified(labels[:count], val_share, split_seed, facts.classes, facts.name)
    indices = {"train": train, "val": val, "test": torch.arange(count, len(labels)), "whole": torch.arange(count)}
    splits = {name: TensorImages(pixels, labels, chosen) for name, chosen in indices.items()}
    files = counted(len(there), "training file")
    note = f"{val_share:.0%} of {files} held out for val, stratified, seed {split_seed}; official test"
    return Data(facts, split_note=note, **splits)


def _report_missing(where: Path, batches: Sequence[str], there: Sequence[str], longest: int, name: str) -> None:
    """UserError if training files of the full dataset are missing; a warning if the folder holds a sample of it.

    A sample consists of the first files only, each shorter than those of the full dataset.
    """
    missing = [batch for batch in batches if batch not in there]
    message = f"dataset {name!r}: {where} has {len(there)} of {counted(len(batches), 'training file')}"
    if longest >= FULL or list(there) != list(batches[: len(there)]):
        raise UserError(f"{message}; {', '.join(missing)} missing: the download is damaged, fetch it again")
    warnings.warn(f"{message}, of at most {longest:,} images: treated as a sample", stacklevel=4)


def _folder(root: Path, folder: str, test_file: str, name: str) -> Path:
    for where in (root / folder, root):
        if (where / test_file).is_file():
            return where
    raise UserError(f"dataset {name!r}: found neither {root / folder / test_file} nor {root / test_file}")


def _read(path: Path, key: str, classes: int) -> tuple[Tensor, Tensor]:
    """(pixels (n, 3, 32, 32) uint8, labels (n,) int64) of one file; UserError unless it is one of CIFAR's."""
    found = read_pickle(path)
    rows, labels = found.get("data"), found.get(key)
    if not isinstance(rows, np.ndarray) or not isinstance(labels, list):
        raise UserError(f"{path}: expected an array 'data' and a list {key!r}; found the keys {', '.join(found)}")
    if rows.dtype != np.uint8 or rows.shape != (len(labels), ROW):
        raise UserError(
            f"{path}: found data of shape {rows.shape} and type {rows.dtype} with {len(labels)} labels; "
            f"expected one row of {ROW} uint8 for each label"
        )
    if not all(isinstance(label, int) and 0 <= label < classes for label in labels):
        raise UserError(f"{path}: found labels outside 0..{classes - 1}; is this the archive of another dataset?")
    pixels = torch.from_numpy(rows.copy()).reshape(-1, 3, SIDE, SIDE)
    return pixels, torch.tensor(labels, dtype=torch.long)
