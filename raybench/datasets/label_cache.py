"""Labels that take long to read and check are read once a sweep, and lie in its storage."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raybench.datasets.boxes import BoxData, BoxImages
from raybench.storage.base import Storage
from raybench.tasks.protocol import DataFacts

VERSION = 1  # raise when reading or checking changes


@dataclass(frozen=True)
class Labelled:
    """One folder's images and boxes, with the names of the classes."""

    names: tuple[str, ...]
    images: BoxImages


class SplitSource(Protocol):
    """Where one folder's labels come from."""

    folder: Path

    @property
    def sources(self) -> Sequence[Path]:
        """The files whose content the labels depend on."""

    def read(self) -> Labelled:
        """Every image and box, checked."""


@dataclass(frozen=True)
class LabelSource:
    """A detection dataset whose folders were found, but whose labels are not read yet."""

    facts: DataFacts
    splits: tuple[SplitSource, ...]
    make: Callable[[list[Labelled]], BoxData]  # one `Labelled` a split -> the dataset

    def opened(self, storage: Storage | None) -> BoxData:
        """The dataset; its labels come from `storage` where a run before left them, else they are left there.

        What was left out is logged by the run that reads, and by it alone. Raises UserError as the reader does.
        """
        return self.make([_labels(split, storage) for split in self.splits])


def _labels(split: SplitSource, storage: Storage | None) -> Labelled:
    if storage is None:
        return split.read()
    key = f"labels/{_fingerprint(split)}"
    folder = storage.fetch(key)
    if folder is None:
        found = split.read()
        with tempfile.TemporaryDirectory(prefix="raybench-labels-") as temporary:
            fresh = Path(temporary) / "labels"
            fresh.mkdir()
            found.images.save(fresh, "images")
            (fresh / "names.json").write_text(json.dumps(found.names))
            storage.publish(key, fresh)
        return found
    names = tuple(json.loads((folder / "names.json").read_text()))
    return Labelled(names, BoxImages.load(folder, "images", split.folder))


def _fingerprint(split: SplitSource) -> str:
    """Hash of the label files' content and of the names and sizes of the images."""
    told = hashlib.sha256(f"labels {VERSION}".encode())
    for file in split.sources:
        with open(file, "rb") as opened:
            told.update(hashlib.file_digest(opened, "sha256").digest())
    for file in sorted(split.folder.iterdir()):
        told.update(f"{file.name}\0{file.stat().st_size}\n".encode())
    return told.hexdigest()[:16]
