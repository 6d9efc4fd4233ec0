"""Pixels of a detection dataset's images, as OpenCV or Pillow decodes them, by way of the cache of decoded pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from raybench.datasets.boxes import BoxImages
from raybench.datasets.image_files import as_rgb, turned
from raybench.datasets.picture_cache import pictures
from raybench.errors import StageError
from raybench.models.offline import offline

with offline():
    import cv2
    from ultralytics import __version__ as ULTRALYTICS

BY_PILLOW = {".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm", ".gif", ".avif", ".jp2"}  # as the check decoded them


def prepared_bgr(images: BoxImages, number: int, how: str, prepare: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`prepare` of an image's pixels, (h, w, 3) uint8 BGR, by way of the user's cache of decoded pictures.

    `how` names all that `prepare` does, ultralytics' version aside. The array may be written to.
    StageError for a broken file.
    """
    cache = None if images.pixels else pictures()
    if cache is None:
        return prepare(read_bgr(images, number))
    file, (height, width) = _file_of(images, number), images.sizes[number].tolist()
    reader = "Pillow" if file.suffix.lower() in BY_PILLOW else "OpenCV"
    key = f"detection {how} of {width}x{height} {images.turn_of(number)} {reader} {cv2.__version__} {ULTRALYTICS}"
    with suppress(OSError, StageError):  # it is read without the cache, which says what is wrong
        found = cache.get(file, key, lambda content: prepare(read_bgr(images, number, content)))
        return found if found.flags.writeable else found.copy()
    return prepare(read_bgr(images, number))


def read_bgr(images: BoxImages, number: int, content: bytes | None = None) -> np.ndarray:
    """Pixels of an image, (h, w, 3) uint8 BGR; grey images have three equal channels. StageError for a broken file.

    `content`: of the image's file, if that was read already.
    """
    if images.pixels:
        return np.ascontiguousarray(images.pixels[number][:, :, ::-1])
    file = _file_of(images, number)
    pixels = _decoded(file, images.turn_of(number), content)
    expected = tuple(images.sizes[number].tolist())
    if pixels is None or pixels.shape[:2] != expected:
        found = "no image" if pixels is None else f"an image of {pixels.shape[:2]}"
        raise StageError("data", f"{file}: found {found}; expected height and width {expected}")
    return pixels


def _file_of(images: BoxImages, number: int) -> Path:
    assert images.folder is not None  # images without pixels in memory are files
    return images.folder / images.files[number]


def _decoded(file: Path, turn: int, content: bytes | None = None) -> np.ndarray | None:
    """Pixels of a file, upright by EXIF's orientation `turn`; None when they can't be decoded."""
    if file.suffix.lower() not in BY_PILLOW:
        stored = _by_opencv(file if content is None else content)
        if stored is not None:
            return turned(stored, turn)
    try:
        with Image.open(file if content is None else io.BytesIO(content)) as image:
            return np.ascontiguousarray(np.asarray(as_rgb(image, turn))[:, :, ::-1])
    except Exception:  # decoders raise what they like at damaged files
        return None


def _by_opencv(source: Path | bytes) -> np.ndarray | None:
    """Pixels as a file, or its content, stores them; None when they can't be decoded."""
    try:
        content = np.fromfile(source, np.uint8) if isinstance(source, Path) else np.frombuffer(source, np.uint8)
        with _without_messages():
            return cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):  # it isn't there any more, or is empty
        return None


@contextmanager
def _without_messages() -> Iterator[None]:
    """Drop what decoders in C print on standard error: a file's faults were reported when it was looked at."""
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
