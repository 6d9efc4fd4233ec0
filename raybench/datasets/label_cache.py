"""Cache of checked detection labels in the sweep's storage: they are read and checked once a sweep."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raybench.datasets.boxes import BoxData, BoxImages
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.storage import sealed
from raybench.storage.base import Storage
from raybench.storage.hashing import file_sha256

VERSION = 4  # raise when reading or checking changes
NAMES = "names.json"  # the names of the classes, and the checksums of the folder


@dataclass(frozen=True)
class Labelled:
    """One folder's images and boxes, with the names of the classes."""

    names: tuple[str, ...]
    images: BoxImages


class SplitSource(Protocol):
    """Reader of one folder's images and labels."""

    folder: Path

    @property
    def sources(self) -> Sequence[Path]:
        """The files whose content the labels depend on."""

    @property
    def files(self) -> Iterable[Path]:
        """The files below `folder` whose names and sizes the labels depend on."""

    def read(self) -> Labelled:
        """Every image and box, checked."""


@dataclass(frozen=True)
class LabelSource:
    """A detection dataset whose folders were found but whose labels are not read yet."""

    facts: DataFacts
    splits: tuple[SplitSource, ...]
    make: Callable[[list[Labelled]], BoxData]  # one `Labelled` for each split -> the dataset

    def opened(self, storage: Storage | None) -> BoxData:
        """The dataset, its labels read from the cache in `storage` or, the first time, from the files and then cached.

        Left-out boxes and images are logged only when the files are read. Raises the reader's UserErrors.
        """
        return self.make([_labels(split, storage) for split in self.splits])


def _labels(split: SplitSource, storage: Storage | None) -> Labelled:
    """Images and boxes of `split`, cached where there is a storage."""
    if storage is None:
        return split.read()
    key = f"labels/{_fingerprint(split)}"
    folder = sealed.intact(storage, key, NAMES)
    if folder is None:
        found = split.read()
        with tempfile.TemporaryDirectory(prefix="raybench-labels-") as temporary:
            fresh = Path(temporary) / "labels"
            fresh.mkdir()
            found.images.save(fresh, "images")
            sealed.write(fresh, NAMES, {"names": found.names})
            storage.publish(key, fresh)
        return found
    names = tuple(sealed.read(folder, NAMES)["names"])
    return Labelled(names, BoxImages.load(folder, "images", split.folder))


def _fingerprint(split: SplitSource) -> str:
    """Hash of the label files' content and of the names and sizes of all files in the folder of images."""
    hasher = hashlib.sha256(f"labels {VERSION}".encode())
    for file in split.sources:
        try:
            hasher.update(bytes.fromhex(file_sha256(file)))
        except OSError as error:
            raise UserError(f"{file}: can't be read: {error.strerror}; expected labels") from error
    for file in sorted(split.files):
        hasher.update(os.fsencode(file.relative_to(split.folder)) + f"\0{file.stat().st_size}\n".encode())
    return hasher.hexdigest()[:16]
