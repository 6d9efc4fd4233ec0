"""Reads the head of a JPEG without decoding it: size, EXIF orientation, and where the picture's data begin."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

START, END = b"\xff\xd8\xff", b"\xff\xd9"
HEAD, MOST = 1 << 16, 1 << 24  # bytes read at first, and when the head is longer
TAIL = 1024  # bytes at the end that are searched for the end marker
ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
SIZES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers
LONG = 4  # TIFF's type of a number of 4 bytes
SCAN, APP1, EXIF, ORIENTATION = 0xDA, 0xE1, b"Exif\0\0", 0x0112


@dataclass(frozen=True)
class Head:
    """What stands before the picture's data."""

    height: int
    width: int
    orientation: int  # EXIF's: 1 upright, 2 to 8 mirrored or turned
    scan: int  # position of the data in the file


def read_head(file: BinaryIO) -> Head | None:
    """The head of an opened JPEG; None where it isn't one, or not as expected: a decoder must decide."""
    data = file.read(HEAD)
    if not data.startswith(START):
        return None
    found = _walked(data)
    if found is None and len(data) == HEAD:
        found = _walked(data + file.read(MOST))
    return found


def has_end(file: BinaryIO, head: Head) -> bool:
    """Whether the end marker is in the last `TAIL` bytes, behind the head: the picture is whole then.

    A picture without one there may be whole, too: some phones append kilobytes. It must be decoded to know.
    """
    start = max(file.seek(0, os.SEEK_END) - TAIL, head.scan)
    file.seek(start)
    return END in file.read()


def _walked(data: bytes) -> Head | None:
    """Follow the segments from marker to marker until the picture's data begin."""
    place, size, orientation = 2, (0, 0), 1
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker in ALONE:
            place += 2
            continue
        if marker == SCAN:
            return Head(*size, orientation, place) if all(size) else None
        length = int.from_bytes(data[place + 2 : place + 4])
        if marker in SIZES:
            if place + 9 > len(data):
                return None
            size = int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
        elif marker == APP1 and data[place + 4 : place + 10] == EXIF:
            orientation = _orientation(data[place + 10 : place + 2 + length])
        place += 2 + length
    return None


def _orientation(exif: bytes) -> int:
    """EXIF's orientation from its first directory; 1 where there is none, or none that is valid."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for number in range(count):
            place = start + 2 + 12 * number
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, place)
            if tag == ORIENTATION:
                if kind == LONG:  # of 4 bytes, as some programs write it
                    (value,) = struct.unpack_from(f"{order}I", exif, place + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
