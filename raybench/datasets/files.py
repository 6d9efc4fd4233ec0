"""Images on disk in class folders: listed and checked once, decoded by threads while the network computes."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raybench.datasets.data import random_boxes
from raybench.datasets.image_files import (
    Seen,
    as_rgb,
    decoding_threads,
    huge_line,
    ignore_pillow,
    is_image,
    look_at_all,
)
from raybench.datasets.picture_cache import PictureCache, pictures
from raybench.datasets.statistics import View
from raybench.datasets.transfer import on_device
from raybench.datasets.tree import counted_by_ending, files_below, is_left_by_tools, warn_once
from raybench.errors import RaybenchWarning, UserError

AHEAD = 4  # batches decoded ahead of the one in use
CROP = 224 / 256  # the centre crop's side in units of the shorter side (Krizhevsky et al. 2012)
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SHOWN = 3  # files that a message names


@dataclass(frozen=True)
class Listing:
    """The readable images of one tree of class folders."""

    folder: Path
    classes: tuple[str, ...]  # sorted; a label is an index into it
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    turns: tuple[int, ...]  # EXIF's orientation of each file, 1 where the decoded picture isn't turned
    changed: Counter[str] = field(default_factory=Counter)  # what is read differently from how it is stored -> count
    unused: Counter[str] = field(default_factory=Counter)  # kinds of files that are no images of a class -> count

    def only(self, chosen: Sequence[int]) -> Listing:
        """The images with the indices `chosen`."""
        return replace(
            self,
            files=tuple(self.files[i] for i in chosen),
            labels=tuple(self.labels[i] for i in chosen),
            turns=tuple(self.turns[i] for i in chosen),
        )

    def __add__(self, other: Listing) -> Listing:
        parts = {name: getattr(self, name) + getattr(other, name) for name in ("files", "labels", "turns")}
        return replace(self, **parts)


@lru_cache(maxsize=8)  # every stage opens the data again; the files don't change during a run
def list_classes(folder: Path, dataset: str, max_unreadable: float, as_stored: bool = False) -> Listing:
    """Every image below `folder`/CLASS/, sorted; unreadable ones are left out, named and counted in a warning.

    Linked folders are read, hidden ones and those that tools leave behind are not.

    Args:
        folder: the folder of a split.
        dataset: its name, for messages.
        max_unreadable: the share of images that may be unreadable.
        as_stored: take pictures as they are stored, whatever their EXIF data say, as published figures do.

    Raises:
        UserError: there are no classes, an empty one, or more unreadable images than `max_unreadable`.
    """
    if not folder.is_dir():
        raise UserError(f"dataset {dataset!r}: found no folder {folder}; expected class folders in it")
    entries = [entry for entry in os.scandir(folder) if not is_left_by_tools(entry.name)]
    classes = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    if not classes:
        raise UserError(f"dataset {dataset!r}: found no class folders in {folder}")
    below = [(path, label) for label, name in enumerate(classes) for path in _sorted_files(folder / name)]
    found = [(path, label) for path, label in below if is_image(path)]
    seen = look_at_all([path for path, _ in found], folder)
    bad = [(path, one.problem) for (path, _), one in zip(found, seen, strict=True) if one.problem]
    if bad:
        _report_unreadable(bad, len(found), dataset, max_unreadable)
    kept = [(path, label, one) for (path, label), one in zip(found, seen, strict=True) if not one.problem]
    files, labels, facts = (tuple(column) for column in zip(*kept, strict=True)) if kept else ((), (), ())
    _check_filled(folder, dataset, classes, set(labels), below)
    unused = counted_by_ending(path for path, _ in below if not is_image(path))
    unused["files beside the class folders"] += sum(entry.is_file() for entry in entries)
    warn_once(f"dataset {dataset!r}: {line}" if (line := huge_line(files, facts)) else "")
    turns = tuple(1 if as_stored else one.turn for one in facts)
    return Listing(folder, classes, files, labels, turns, _changes(facts, as_stored), +unused)


def _check_filled(
    folder: Path, dataset: str, classes: Sequence[str], filled: Set[int], below: Sequence[tuple[Path, int]]
) -> None:
    """UserError for classes without a readable image; it says what else of `below`, (file, label), lies there."""
    if empty := [name for label, name in enumerate(classes) if label not in filled]:
        endings = counted_by_ending(path for path, label in below if label not in filled and not is_image(path))
        there = f" (found {', '.join(f'{count} {what}' for what, count in endings.items())})" if endings else ""
        raise UserError(
            f"dataset {dataset!r}: no readable image in class {', '.join(empty[:SHOWN])} of {folder}{there}"
        )


def _changes(seen: Sequence[Seen], as_stored: bool) -> Counter[str]:
    """What is read differently from how it is stored."""
    turned = sum(one.exif != 1 for one in seen)
    deep = sum(one.deep for one in seen)
    return +Counter(
        {
            "turned upright by their EXIF orientation": 0 if as_stored else turned,
            "of more than 8 bits of grey scaled to 8": deep,
        }
    )


def _sorted_files(folder: Path) -> list[Path]:
    return sorted(files_below(folder), key=lambda path: path.parts)


def _report_unreadable(bad: Sequence[tuple[Path, str]], count: int, dataset: str, limit: float) -> None:
    named = ", ".join(str(path) for path, _ in bad[:SHOWN])
    why = "; ".join(dict.fromkeys(why for _, why in bad[:SHOWN]))
    named += f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    message = f"dataset {dataset!r}: {len(bad)} of {count} images can't be read: {named}"
    if len(bad) > limit * count:
        raise UserError(f"{message}; that is above the {limit:.1%} that `max_unreadable` allows ({why})")
    warnings.warn(f"{message}; they are left out ({why})", RaybenchWarning, stacklevel=3)


class FileImages:
    """A split on disk: images are decoded batch by batch."""

    def __init__(
        self, listing: Listing, size: tuple[int, int], crop: float = CROP, interpolation: str = "bilinear"
    ) -> None:
        """`size`: height and width of the images as the network sees them."""
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
        return on_device(self._decoded(order, crops), device)

    def _decoded(self, order: Sequence[Tensor], crops: Sequence[Tensor] | None) -> Iterator[np.ndarray]:
        """The batches as (b, h, w, 3) uint8."""
        ignore_pillow()
        with ThreadPoolExecutor(decoding_threads()) as pool:
            waiting: deque[list[Future[np.ndarray]]] = deque()
            for number, indices in enumerate(order):
                draws = None if crops is None else crops[number]
                waiting.append(self._submit(pool, indices, draws))
                if len(waiting) > AHEAD:
                    yield np.stack([part.result() for part in waiting.popleft()])
            while waiting:
                yield np.stack([part.result() for part in waiting.popleft()])

    def _submit(self, pool: ThreadPoolExecutor, indices: Tensor, draws: Tensor | None) -> list[Future[np.ndarray]]:
        chosen = indices.tolist()
        rows = [None] * len(chosen) if draws is None else list(draws)
        how = self._size, self._crop, self._resample
        files, turns = self._listing.files, self._listing.turns
        return [pool.submit(decode, files[i], row, *how, turns[i]) for i, row in zip(chosen, rows, strict=True)]


def decode(
    path: Path,
    draws: Tensor | None,
    size: tuple[int, int],
    crop: float,
    resample: Image.Resampling,
    turn: int = 1,
) -> np.ndarray:
    """One image as (height, width, 3) uint8: a random resized crop computed from `draws` (4,), or the resized centre.

    `size`: that height and width. `turn` is EXIF's orientation. UserError naming the file when its pixels can't be
    decoded.
    """
    if (cache := pictures()) is not None:
        with suppress(Exception):  # it is decoded from the file, which says what is wrong
            return _cached(cache, path, draws, size, crop, resample, turn)
    try:
        return _cropped(_upright(path, turn), draws, size, crop, resample)
    except Exception as error:  # decoders raise what they like at damaged files
        raise UserError(f"{path}: the image can't be decoded ({error}); remove it or fetch it again") from error


def _cached(
    cache: PictureCache, path: Path, draws: Tensor | None, size: tuple[int, int], crop: float,
    resample: Image.Resampling, turn: int,
) -> np.ndarray:  # fmt: skip
    """`decode` by way of the cache: it holds resized centres, and whole pictures of which random boxes are taken."""

    def centre(data: bytes) -> np.ndarray:
        return _cropped(_upright(io.BytesIO(data), turn), None, size, crop, resample)

    if draws is None:
        return cache.get(path, f"{size[0]}x{size[1]} {crop} {resample.name} {turn}", centre)
    whole = cache.get(path, f"whole {turn}", lambda data: np.asarray(_upright(io.BytesIO(data), turn)))
    return _cropped(Image.fromarray(whole), draws, size, crop, resample)


def _upright(file: Path | io.BytesIO, turn: int) -> Image.Image:
    with Image.open(file) as opened:
        return as_rgb(opened, turn)


def _cropped(
    image: Image.Image, draws: Tensor | None, size: tuple[int, int], crop: float, resample: Image.Resampling
) -> np.ndarray:
    """The random box of `draws`, or the centre, as (height, width, 3) of `size`."""
    bounds = _box(image, size, crop) if draws is None else _random_box(image, draws, size)
    return np.asarray(image.resize((size[1], size[0]), resample, box=bounds))


def _random_box(image: Image.Image, draws: Tensor, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the random box computed from `draws` (4,), about as wide for its height as `size`."""
    width, height = image.size
    sizes = torch.tensor([float(height)]), torch.tensor([float(width)])
    top, left, tall, wide = random_boxes(draws[None], *sizes, size[1] / size[0])[0].tolist()
    return left, top, left + wide, top + tall


def _box(image: Image.Image, size: tuple[int, int], crop: float) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the largest centred box with the sides' ratio of `size` (height, width).

    `crop` of it where it is larger than `size`.
    """
    (width, height), (tall, wide) = image.size, size
    if width * tall <= height * wide:  # the whole width
        right, bottom, shrinks = float(width), width * tall / wide, width > wide
    else:
        right, bottom, shrinks = height * wide / tall, float(height), height > tall
    if shrinks:
        right, bottom = right * crop, bottom * crop
    return (width - right) / 2, (height - bottom) / 2, (width + right) / 2, (height + bottom) / 2
