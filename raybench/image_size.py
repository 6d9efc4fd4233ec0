"""The size of a network's images as people write it: ``224``, or ``128x96`` (width x height)."""

from __future__ import annotations

import re

ImageSize = int | str  # the type of a dataset's parameter `image_size`, where images need not be square
Side = int | tuple[int, int]  # what a network is built for: the side of a square, or (height, width)

EXPECTED = "a number of pixels such as 224, or WIDTHxHEIGHT such as 128x96"
LARGEST = 65_535  # pixels of a side
_PAIR = re.compile(r"(\d{1,5})\s*[xX×]\s*(\d{1,5})")


def read_size(value: object) -> Side | None:
    """The size that `value` says; None where it says none.

    Returns:
        The side of a square, else (height, width) as torch has it.

    Example:
        >>> read_size(224), read_size("128x96"), read_size("96x96"), read_size("wide")
        (224, (96, 128), 96, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 1 <= value <= LARGEST else None
    found = _PAIR.fullmatch(value.strip()) if isinstance(value, str) else None
    if not found:
        return None
    width, height = int(found[1]), int(found[2])
    if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
        return None
    return width if width == height else (height, width)


def sides(size: Side) -> tuple[int, int]:
    """(height, width) of a size.

    Example:
        >>> sides(224), sides((96, 128))
        ((224, 224), (96, 128))
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def written(size: Side) -> int | str:
    """A size as it is typed: a number for a square, else ``WIDTHxHEIGHT``.

    Example:
        >>> written(224), written((96, 128))
        (224, '128x96')
    """
    height, width = sides(size)
    return height if height == width else f"{width}x{height}"


def canonical(value: ImageSize) -> ImageSize:
    """One spelling of each size, which ids are made of; what says no size is returned as it is.

    Example:
        >>> canonical("0128X96"), canonical("96x96"), canonical(96)
        ('128x96', 96, 96)
    """
    size = read_size(value)
    return value if size is None else written(size)
