"""Opened detection datasets: images with checked boxes in flat arrays."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from raybench.datasets.facts import SPLITS, DataFacts, Split
from raybench.errors import UserError, counted

ARRAYS = ("sizes", "first", "boxes", "classes", "crowd", "turns")
SHOWN = 3  # files that a message names
LEAST_PIXELS = 1.0  # boxes narrower or lower than this inside their image are left out
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoxImages:
    """One split: n images with m boxes in total. Pixels are in files below `folder`, or in memory."""

    files: tuple[str, ...]  # names, relative to `folder`
    sizes: np.ndarray  # (n, 2) int64, height and width; of the upright picture
    first: np.ndarray  # (n + 1,) int64: image i has the boxes first[i] to first[i + 1] - 1
    boxes: np.ndarray  # (m, 4) float64: x1, y1, x2, y2 in pixels, inside the image
    classes: np.ndarray  # (m,) int64
    crowd: np.ndarray  # (m,) bool: covers many objects; not trained on, never counted as missed
    turns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (n,) EXIF orientations; empty: all 1
    folder: Path | None = None
    pixels: tuple[np.ndarray, ...] = ()  # each (height, width, 3) uint8 RGB, where there is no folder

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def turn_of(self, image: int) -> int:
        """EXIF's orientation by which the stored pixels of `image` have to be turned; 1: they are upright."""
        return int(self.turns[image]) if len(self.turns) else 1

    def boxes_of(self, image: int) -> slice:
        """Slice of the flat arrays that holds the boxes of `image`."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def chosen(self, images: Sequence[int] | np.ndarray) -> BoxImages:
        """Only `images`, in that order."""
        spans = [self.boxes_of(int(i)) for i in images]
        rows = np.concatenate([np.arange(s.start, s.stop) for s in spans] or [np.zeros(0, np.int64)]).astype(np.int64)
        return replace(
            self,
            files=tuple(self.files[int(i)] for i in images),
            sizes=self.sizes[np.asarray(images, np.int64)],
            first=np.cumsum([0, *(s.stop - s.start for s in spans)]),
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            crowd=self.crowd[rows],
            turns=self.turns[np.asarray(images, np.int64)] if len(self.turns) else self.turns,
            pixels=tuple(self.pixels[int(i)] for i in images) if self.pixels else (),
        )

    def save(self, folder: Path, name: str) -> None:
        """Write everything but the pixels to `folder`/`name`.npz and .json."""
        np.savez(folder / f"{name}.npz", **{array: getattr(self, array) for array in ARRAYS})
        (folder / f"{name}.json").write_text(json.dumps(self.files))

    @classmethod
    def load(cls, folder: Path, name: str, images: Path) -> BoxImages:
        """Read what `save` wrote; the image files are below `images`."""
        with np.load(folder / f"{name}.npz", allow_pickle=False) as found:
            arrays = {array: found[array] for array in ARRAYS}
        return cls(tuple(json.loads((folder / f"{name}.json").read_text())), **arrays, folder=images)


@dataclass(frozen=True)
class BoxData:
    """An opened detection dataset: epochs are selected on `val`, the final figure is measured once on `test`."""

    facts: DataFacts
    names: tuple[str, ...]  # of the classes
    train: BoxImages
    val: BoxImages
    test: BoxImages
    split_note: str  # how the splits were made, for people
    own_val: bool = False  # `val` wasn't held out of `train`

    def split(self, name: Split) -> BoxImages:
        """The split called `name`."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def training_on_all(self) -> BoxData:
        """The same data with the held-out images back in `train`; a `val` split of its own stays apart."""
        if self.own_val or self.train.folder != self.val.folder:
            return self
        note = f"{self.split_note}; val is trained on too"
        return replace(self, train=joined(self.train, self.val), split_note=note)

    def checked(self) -> BoxData:
        """Return itself; UserError naming a split without images or without a single box."""
        for name in SPLITS:
            split = self.split(name)
            if not len(split) or not (~split.crowd).any():
                what = "no images" if not len(split) else f"{counted(len(split), 'image')} without a single box"
                raise UserError(
                    f"dataset {self.facts.name!r}: its {name} split has {what}; expected some ({self.split_note})"
                )
        return self


@dataclass
class Collector:
    """Collects images and boxes one by one, checks each, and counts what was changed or left out."""

    where: str  # prefix of messages
    classes: int
    images: list[tuple[str, int, int, list[tuple[float, ...]]]] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add_image(self, file: str, height: int, width: int, turn: int = 1) -> None:
        """Add an image without boxes. `turn`: EXIF's orientation, by which its pixels are turned upright."""
        self.images.append((file, height, width, []))
        self.turns.append(turn)
        if turn != 1:
            self.counts["images turned upright by their EXIF orientation"] += 1

    def leave_out(self, file: str, problem: str) -> None:
        """Count an image file that can't be read."""
        self.broken.append(f"{file}: {problem}")

    def warn(self, line: str) -> None:
        """Log a line at once; an empty one says nothing."""
        if line:
            log.warning("%s: %s", self.where, line)

    def note_unused(self, counts: Mapping[str, int]) -> None:
        """Count what lies in the folder and isn't used."""
        for what, count in counts.items():
            self.counts[f"{what}, not used"] += count

    def add_box(self, index: int, corners: Sequence[float], label: int, crowd: bool) -> None:
        """Add a box (x1, y1, x2, y2 in pixels) to image number `index`, clipped to the image, unless it is invalid."""
        _, height, width, boxes = self.images[index]
        x1, y1, x2, y2 = corners
        if not np.isfinite(corners).all() or x2 <= x1 or y2 <= y1:
            self.counts["boxes of zero, negative or unknown size left out"] += 1
            return
        inside = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
        if inside[2] - inside[0] < min(LEAST_PIXELS, x2 - x1) or inside[3] - inside[1] < min(LEAST_PIXELS, y2 - y1):
            self.counts["boxes outside their image left out"] += 1
            return
        if max(abs(a - b) for a, b in zip(inside, corners, strict=True)) > 1:  # up to a pixel is rounding
            self.counts["boxes cut at the border of their image"] += 1
        row = (*inside, float(label), float(crowd))
        if row in boxes:
            self.counts["boxes that were there twice left out"] += 1
            return
        boxes.append(row)

    def finish(self, folder: Path | None, pixels: Sequence[np.ndarray] = ()) -> BoxImages:
        """Everything as arrays, sorted by file name; logs the counts of what was changed or left out."""
        order = sorted(range(len(self.images)), key=lambda i: self.images[i][0])
        images = [self.images[i] for i in order]
        table = np.array([row for image in images for row in image[3]], dtype=np.float64).reshape(-1, 6)
        notes = [f"{count} {what}" for what, count in sorted((+self.counts).items())]
        if self.broken:
            named = ", ".join(self.broken[:SHOWN]) + (", ..." if len(self.broken) > SHOWN else "")
            notes.insert(0, f"{len(self.broken)} broken image files left out ({named})")
        if notes:
            log.warning("%s: %s", self.where, ", ".join(notes))
        return BoxImages(
            files=tuple(image[0] for image in images),
            sizes=np.array([image[1:3] for image in images], dtype=np.int64).reshape(-1, 2),
            first=np.cumsum([0, *(len(image[3]) for image in images)]),
            boxes=table[:, :4],
            classes=table[:, 4].astype(np.int64),
            crowd=table[:, 5].astype(bool),
            turns=np.array([self.turns[i] for i in order], dtype=np.int64),
            folder=folder,
            pixels=tuple(pixels[i] for i in order) if len(pixels) else (),
        )


def joined(one: BoxImages, other: BoxImages) -> BoxImages:
    """The images of both, which are in the same folder or in memory."""
    return replace(
        one,
        files=one.files + other.files,
        sizes=np.concatenate([one.sizes, other.sizes]),
        first=np.concatenate([one.first, one.first[-1] + other.first[1:]]),
        boxes=np.concatenate([one.boxes, other.boxes]),
        classes=np.concatenate([one.classes, other.classes]),
        crowd=np.concatenate([one.crowd, other.crowd]),
        turns=np.concatenate([one.turns, other.turns]),
        pixels=one.pixels + other.pixels,
    )


def held_out(images: BoxImages, share: float, seed: int, dataset: str) -> tuple[BoxImages, BoxImages]:
    """(rest, held-out `share`) of the images, drawn by the seed, the same on every machine; both sorted."""
    if not 0 < share < 1:
        raise UserError(f"dataset {dataset!r}: val_share is {share}; expected a number between 0 and 1")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(images))
    count = max(1, round(share * len(images)))
    return images.chosen(np.sort(order[count:])), images.chosen(np.sort(order[:count]))
