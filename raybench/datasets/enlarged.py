"""Says so when photos are smaller than what the network sees: they are enlarged, which trained weights don't expect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

SAMPLE = 64  # images whose size is read, evenly spread


def enlarged_line(files: Sequence[Path], size: int, dataset: str) -> str:
    """A line where most of `files` have a shorter side below `size` pixels; empty otherwise."""
    chosen = [files[i * len(files) // SAMPLE] for i in range(SAMPLE)] if len(files) > SAMPLE else list(files)
    sizes = [found for path in chosen if (found := _size(path))]
    small = Counter(found for found in sizes if min(found) < size)
    if 2 * small.total() <= len(sizes):
        return ""
    (width, height), many = small.most_common(1)[0]
    shown = f"{width}x{height}" if 2 * many > len(sizes) else f"smaller, such as {width}x{height},"
    return (
        f"dataset {dataset!r}: most images are {shown} and are enlarged to {size}; weights that were trained at another"
        f" size lose accuracy: image_size (prune: --image-size {min(width, height)}) sets it"
    )


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError):
        return None
