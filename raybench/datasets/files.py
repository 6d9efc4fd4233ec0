"""Images on disk in class folders: listed and checked once, decoded by threads while the network computes."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raybench.datasets.data import random_boxes
from raybench.datasets.image_files import is_readable
from raybench.datasets.statistics import View
from raybench.errors import UserError
from raybench.provenance import usable_cores

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
AHEAD = 4  # batches decoded ahead of the one in use
CROP = 224 / 256  # the centre crop's side in units of the shorter side (Krizhevsky et al. 2012)
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
AT_ONCE = 256  # files that a thread checks as one task
SHOWN = 3  # files that a message names


@dataclass(frozen=True)
class Listing:
    """The readable images of one tree of class folders."""

    folder: Path
    classes: tuple[str, ...]  # sorted; a label is an index into it
    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def only(self, chosen: Sequence[int]) -> Listing:
        """The images with the indices `chosen`."""
        return replace(self, files=tuple(self.files[i] for i in chosen), labels=tuple(self.labels[i] for i in chosen))

    def __add__(self, other: Listing) -> Listing:
        return replace(self, files=self.files + other.files, labels=self.labels + other.labels)


@lru_cache(maxsize=8)  # every stage opens the data again; the files don't change during a run
def list_classes(folder: Path, dataset: str, max_unreadable: float) -> Listing:
    """Every image below `folder`/CLASS/, sorted; unreadable ones are left out, named and counted in a warning.

    A file is unreadable when it is empty, doesn't start like an image, or is a JPEG without its end marker. UserError
    when their share is above `max_unreadable`, a class is empty, or there are no classes.
    """
    if not folder.is_dir():
        raise UserError(f"dataset {dataset!r}: found no folder {folder}; expected class folders in it")
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not classes:
        raise UserError(f"dataset {dataset!r}: found no class folders in {folder}")
    found = [(path, label) for label, name in enumerate(classes) for path in _images(folder / name)]
    with ThreadPoolExecutor(_threads()) as pool:
        parts = pool.map(_readable, [found[i : i + AT_ONCE] for i in range(0, len(found), AT_ONCE)])
        fine = [good for part in parts for good in part]
    bad = [path for (path, _), good in zip(found, fine, strict=True) if not good]
    if bad:
        _report_unreadable(bad, len(found), dataset, max_unreadable)
    kept = [image for image, good in zip(found, fine, strict=True) if good]
    listing = Listing(folder, classes, tuple(path for path, _ in kept), tuple(label for _, label in kept))
    filled = set(listing.labels)
    empty = [name for label, name in enumerate(classes) if label not in filled]
    if empty:
        raise UserError(f"dataset {dataset!r}: no readable image in class {', '.join(empty[:SHOWN])} of {folder}")
    return listing


def _images(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(found, key=lambda path: path.parts)


def _report_unreadable(bad: Sequence[Path], count: int, dataset: str, limit: float) -> None:
    named = ", ".join(map(str, bad[:SHOWN])) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
    message = f"dataset {dataset!r}: {len(bad)} of {count} images can't be read: {named}"
    if len(bad) > limit * count:
        raise UserError(f"{message}; that is above the {limit:.1%} that `max_unreadable` allows")
    warnings.warn(f"{message}; they are left out", stacklevel=3)


def _readable(part: Sequence[tuple[Path, int]]) -> list[bool]:
    return [is_readable(path) for path, _ in part]


class FileImages:
    """A split on disk: images are decoded batch by batch."""

    def __init__(self, listing: Listing, size: int, crop: float = CROP, interpolation: str = "bilinear") -> None:
        self.labels = torch.tensor(listing.labels, dtype=torch.long)
        self._listing, self._size, self._crop = listing, size, crop
        self._resample = RESAMPLING.get(interpolation, Image.Resampling.BILINEAR)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._listing.files)

    def seen_as(self, view: View) -> FileImages:
        """The same files, resized and cropped by `view`."""
        return FileImages(self._listing, self._size, view.crop, view.interpolation)

    def batches(
        self, order: Sequence[Tensor], device: torch.device, crops: Sequence[Tensor] | None
    ) -> Iterator[Tensor]:
        """Images by index, decoded a few batches ahead; see `Images.batches`."""
        with ThreadPoolExecutor(_threads()) as pool:
            waiting: deque[list[Future[np.ndarray]]] = deque()
            for number, indices in enumerate(order):
                draws = None if crops is None else crops[number]
                waiting.append(self._submit(pool, indices, draws))
                if len(waiting) > AHEAD:
                    yield _gathered(waiting.popleft(), device)
            while waiting:
                yield _gathered(waiting.popleft(), device)

    def _submit(self, pool: ThreadPoolExecutor, indices: Tensor, draws: Tensor | None) -> list[Future[np.ndarray]]:
        files = [self._listing.files[index] for index in indices.tolist()]
        rows = [None] * len(files) if draws is None else list(draws)
        how = self._size, self._crop, self._resample
        return [pool.submit(decode, file, row, *how) for file, row in zip(files, rows, strict=True)]


def _gathered(parts: Sequence[Future[np.ndarray]], device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.stack([part.result() for part in parts]))
    return pixels.to(device).permute(0, 3, 1, 2).float().div_(255)


def decode(path: Path, draws: Tensor | None, size: int, crop: float, resample: Image.Resampling) -> np.ndarray:
    """One image as (size, size, 3) uint8: a random resized crop computed from `draws` (4,), or the resized centre.

    UserError naming the file when its pixels can't be decoded.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            bounds = _box(image, size, crop) if draws is None else _random_box(image, draws)
            return np.asarray(image.resize((size, size), resample, box=bounds))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: the image can't be decoded ({error}); remove it or fetch it again") from error


def _random_box(image: Image.Image, draws: Tensor) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the random box computed from `draws` (4,)."""
    width, height = image.size
    sizes = torch.tensor([float(height)]), torch.tensor([float(width)])
    top, left, tall, wide = random_boxes(draws[None], *sizes)[0].tolist()
    return left, top, left + wide, top + tall


def _box(image: Image.Image, size: int, crop: float) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the centre square: `crop` of the shorter side, all of it if that is below `size`."""
    width, height = image.size
    shorter = min(width, height)
    side = shorter * crop if shorter > size else float(shorter)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def _threads() -> int:
    """Decoding threads: one for each core that this process may use, at most 8."""
    return min(usable_cores(), 8)
