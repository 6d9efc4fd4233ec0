"""Image files: looked at once (whole, size, EXIF orientation, depth), and decoded to 8-bit RGB."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raybench.datasets.jpeg import ORIENTATION, has_end, read_head
from raybench.errors import counted
from raybench.provenance import usable_cores
from raybench.storage.user_cache import cache_folder, cache_name, write_cache

ENDINGS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
TURNED_BY_PILLOW = {"TIFF", "AVIF"}  # formats that it decodes upright
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF's orientation -> what makes the picture upright
AT_ONCE = 256  # files that a thread looks at as one task
FULL = 65535  # white of 16 bits
SHOWN = 3  # files that a message names


@dataclass(frozen=True)
class Seen:
    """What a look at an image file found. With a `problem`, the rest means nothing."""

    height: int = 0  # as stored, or as Pillow decodes it
    width: int = 0
    turn: int = 1  # EXIF's orientation, where the decoded picture still has to be turned
    exif: int = 1  # EXIF's orientation
    deep: bool = False  # more than 8 bits of grey, which are scaled
    problem: str = ""  # why it can't be read

    @property
    def huge(self) -> bool:
        """Whether it has more pixels than Pillow decodes without a warning."""
        return self.height * self.width > (Image.MAX_IMAGE_PIXELS or 1 << 40)

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return (self.width, self.height) if self.turn >= 5 else (self.height, self.width)


def is_image(file: Path) -> bool:
    """Whether `file` has the ending of a format that is read here (AVIF and others: where Pillow was built with it)."""
    ending = file.suffix.lower()
    return ending in ENDINGS and ending in _registered()


def look_at_all(files: Sequence[Path], folder: Path) -> list[Seen]:
    """What `look` finds at each of `files`, which lie below `folder`; by threads.

    Only what had to be decoded is remembered, by path, size and time, in the user's cache folder.
    """
    ignore_pillow()
    memory = _Memory(folder)
    parts = [files[i : i + AT_ONCE] for i in range(0, len(files), AT_ONCE)]
    with ThreadPoolExecutor(decoding_threads()) as pool:
        found = [seen for part in pool.map(lambda part: [memory.look(file) for file in part], parts) for seen in part]
    memory.save()
    return found


def look(file: Path) -> Seen:
    """Whether `file` is a whole image, and its facts. A JPEG's head and end are read, everything else is decoded.

    Pillow's decoder decides what is whole: bytes behind a JPEG's end mark are fine, a wrong checksum is not.
    """
    return _head_of(file) or _decoded(file)


def huge_line(files: Sequence[Path], seen: Sequence[Seen]) -> str:
    """A line about pictures so large that decoding takes long; empty where there are none."""
    huge = [file for file, one in zip(files, seen, strict=True) if one.huge and not one.problem]
    if not huge:
        return ""
    most = max(one.height * one.width for one in seen if one.huge and not one.problem)
    named = ", ".join(map(str, huge[:SHOWN])) + (f" and {len(huge) - SHOWN} more" if len(huge) > SHOWN else "")
    return (
        f"{counted(len(huge), 'image')} of over {Image.MAX_IMAGE_PIXELS:,} pixels ({named}): each takes seconds and up "
        f"to {3 * most / 2**20:,.0f} MiB to decode, in every epoch; scale them down"
    )


def ignore_pillow() -> None:
    """Drop what Pillow warns of from here on: what is wrong with a picture is said once, when it is looked at."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def as_rgb(image: Image.Image, turn: int = 1) -> Image.Image:
    """8-bit RGB, upright by EXIF's orientation `turn`; more than 8 bits of grey are scaled to 8."""
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode))
    image = image.convert("RGB")
    return image.transpose(TURN[turn]) if turn in TURN else image


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """An array (height, width, ...) made upright by EXIF's orientation `turn`."""
    if turn not in TURN:
        return pixels
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if turn in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if turn in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def decoding_threads() -> int:
    """Threads that read images: one for each core that this process may use, at most 8."""
    return min(usable_cores(), 8)


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey of 16 bits by that range; of other depths by what their values show: 0 to 1, 255, 65535 or their largest."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    most = float(values.max(initial=0.0))
    if mode.startswith("I;16"):
        white = float(FULL)
    else:
        ranges = (1.0, 255.0, float(FULL)) if mode == "F" else (255.0, float(FULL))
        white = next((white for white in ranges if most <= white), most)
    return np.rint(values.clip(0, white) * (255 / white)).astype(np.uint8)


def _head_of(file: Path) -> Seen | None:
    """A JPEG's facts from its head, None where it must be decoded to know whether it is whole."""
    try:
        with file.open("rb", buffering=0) as opened:
            head = read_head(opened)
            if head is None or not has_end(opened, head) or head.height * head.width > _most_pixels():
                return None
    except OSError:
        return None
    return Seen(head.height, head.width, head.orientation, head.orientation)


def _decoded(file: Path) -> Seen:
    """An image's facts after decoding it."""
    try:
        _check_sums(file)
        with Image.open(file) as image:
            exif = _orientation(image)
            turn = 1 if image.format in TURNED_BY_PILLOW else exif
            deep = image.mode.startswith("I") or image.mode == "F"
            image.load()
            return Seen(image.height, image.width, turn, exif, deep)
    except Image.DecompressionBombError:
        return Seen(problem=f"more than {_most_pixels():,} pixels")
    except Exception as error:  # decoders raise what they like at damaged files
        return Seen(problem=_why(file, error))


def _check_sums(file: Path) -> None:
    """SyntaxError or OSError for a PNG with a wrong checksum, which decoding skips."""
    with Image.open(file) as image:
        if image.format == "PNG":
            image.verify()


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data: the picture is taken as it is stored
        return 1
    return found if found in TURN else 1


def _why(file: Path, error: Exception) -> str:
    """The reason in a few words."""
    with suppress(OSError):
        if not file.stat().st_size:
            return "empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "no image"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _most_pixels() -> int:
    """Pillow refuses larger pictures, which may be made to fill the memory."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 1 << 40)


def _registered() -> dict[str, str]:
    return Image.registered_extensions()


class _Memory:
    """What is known of the files below one folder that had to be decoded, by path, size and time."""

    def __init__(self, folder: Path) -> None:
        self._file = cache_folder("images") / cache_name(folder)
        self._before = self._read()
        self._now: dict[str, list[Any]] = {}

    def look(self, file: Path) -> Seen:
        """What is remembered of `file`, or `look`."""
        if (seen := _head_of(file)) is not None:
            return seen
        try:
            status = file.stat()
        except OSError as error:
            return Seen(problem=error.strerror or "unreadable")
        key, state = os.fspath(file), [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self._before.get(key)
        if known is not None and known[:3] == state:
            self._now[key] = known
            return Seen(*known[3:])
        found = _decoded(file)
        self._now[key] = [*state, *astuple(found)]
        return found

    def save(self) -> None:
        """Keep what is known now, unless nothing is new."""
        if self._now != self._before:
            write_cache(self._file, self._now)

    def _read(self) -> dict[str, list[Any]]:
        try:
            content = json.loads(self._file.read_text())
            return {key: known for key, known in content.items() if Seen(*known[3:])}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # not there, or damaged: made again
            return {}
