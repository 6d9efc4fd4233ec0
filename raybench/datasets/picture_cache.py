"""Decoded pictures in the user's cache folder, so that a photo is decoded once and not in every epoch.

A picture is found by the content of its file and by what was done to it, so the bytes are those that decoding gives.
The folder is bounded. What can't be written or was damaged is decoded as ever.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import struct
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from raybench.storage.user_cache import UNFINISHED, cache_folder, write_whole

SIZE_GIB = "RAYBENCH_PICTURE_CACHE_GIB"  # environment: the most that the folder may hold; 0: no cache
MOST_GIB = 4.0
LEAST_FREE = 1 << 30  # bytes of the disk that stay free
HEADER = b"raybench picture 1\n"
FACTS = struct.Struct("<II")  # height and width, behind the header; then the SHA-256 of these and of the pixels
RECENT_S = 24 * 3600.0  # what was used since then is kept: it is likely of the sweep that runs
AGAIN_S = 3600.0  # a use is noted once in so many seconds


class PictureCache:
    """Pictures (height, width, 3) uint8 in a folder; safe with several threads and processes.

    Args:
        folder: where they lie, there or not.
        most: bytes that the folder may hold; a few more where several processes write at the same time.
    """

    def __init__(self, folder: Path, most: float) -> None:
        self._folder, self._most, self._lock = folder, most, threading.Lock()
        self._held: float | None = None  # bytes in the folder, from the first write on; inf: writing has ended
        self._contents: dict[tuple[object, ...], str] = {}  # path, size and times -> SHA-256 of the content

    def get(self, file: Path, how: str, make: Callable[[bytes], np.ndarray]) -> np.ndarray:
        """The picture that `make` makes of the content of `file`, from the folder where it lies there.

        Args:
            file: an image file.
            how: all that `make` depends on beside the content.
            make: decodes the content.

        Raises:
            OSError: `file` can't be read.
        """
        status = file.stat()
        state = (os.fspath(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self._contents.get(state)
        if known is not None and (found := self._read(self._place(known, how))) is not None:
            return found
        data = file.read_bytes()
        content = self._contents[state] = hashlib.sha256(data).hexdigest()
        place = self._place(content, how)
        found = None if content == known else self._read(place)
        if found is None:
            found = make(data)
            self._write(place, found)
        return found

    def _place(self, content: str, how: str) -> Path:
        key = hashlib.sha256(f"{content} {how} {_decoders()}".encode()).hexdigest()
        return self._folder / key[:2] / f"{key[2:34]}.rgb"

    def _read(self, place: Path) -> np.ndarray | None:
        """The picture at `place`; None if there is none, or a damaged one, which is removed."""
        try:
            data = place.read_bytes()
        except OSError:
            return None
        start = len(HEADER) + FACTS.size
        pixels = memoryview(data)[start + 32 :]
        if data[:start].startswith(HEADER) and data[start : start + 32] == _seal(data[len(HEADER) : start], pixels):
            height, width = FACTS.unpack(data[len(HEADER) : start])
            _note_use(place)
            return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        with suppress(OSError):
            place.unlink()
        return None

    def _write(self, place: Path, picture: np.ndarray) -> None:
        """Keep a picture where there is room. A full disk ends all writing of this process."""
        if not self._takes(picture.nbytes):
            return
        facts, pixels = FACTS.pack(*picture.shape[:2]), memoryview(picture.tobytes())
        try:
            write_whole(place, (HEADER, facts, _seal(facts, pixels), pixels))
        except OSError:
            self._held = math.inf

    def _takes(self, size: int) -> bool:
        """Whether a picture of `size` bytes is kept; counts it."""
        with self._lock:
            if self._held is None:
                self._held = tidied(self._folder, self._most)
            if self._held + size > self._most or not _has_room(self._folder):
                return False
            self._held += size
            return True


def tidied(folder: Path, most: float) -> float:
    """Bytes in `folder`, after what killed writers left is removed, and old pictures where it is nearly full.

    Pictures that weren't used for a day go, the oldest first, until half of `most` is free.
    """
    now, found = time.time(), list[tuple[float, int, str]]()
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(OSError):
                status = os.stat(path)
                if name.endswith(UNFINISHED) and now - status.st_mtime > AGAIN_S:
                    os.unlink(path)
                else:
                    found.append((status.st_mtime, status.st_size, path))
    held = sum(size for _, size, _ in found)
    if held < 0.9 * most:
        return held
    for used, size, path in sorted(found):
        if held <= most / 2 or now - used < RECENT_S:
            break
        with suppress(OSError):
            os.unlink(path)
            held -= size
    return held


def pictures() -> PictureCache | None:
    """The cache of this user; None where RAYBENCH_PICTURE_CACHE_GIB is 0."""
    most = _most_gib(os.environ.get(SIZE_GIB, ""))
    return _opened(cache_folder("pictures"), most) if most else None


@cache
def _most_gib(text: str) -> float:
    if not text.strip():
        return MOST_GIB
    with suppress(ValueError):
        if 0 <= (found := float(text)) < math.inf:
            return found
    warnings.warn(f"{SIZE_GIB}: found {text!r}, expected a number of GiB, 0 for no cache; taking 0", stacklevel=3)
    return 0.0


@cache
def _opened(folder: Path, gib: float) -> PictureCache:
    return PictureCache(folder, gib * 2**30)


@cache
def _decoders() -> str:
    """Versions of what decodes: another one may give other pixels."""
    return f"{PIL.__version__} {features.version('jpg')} {features.version('libjpeg_turbo')} {features.version('webp')}"


def _seal(facts: bytes, pixels: memoryview) -> bytes:
    hasher = hashlib.sha256(facts)
    hasher.update(pixels)
    return hasher.digest()


def _note_use(place: Path) -> None:
    with suppress(OSError):
        if time.time() - place.stat().st_mtime > AGAIN_S:
            os.utime(place)


def _has_room(folder: Path) -> bool:
    """Whether the disk has room; the nearest folder that is there is asked."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with suppress(OSError):
        return shutil.disk_usage(folder).free > LEAST_FREE
    return False
