"""Says so when photos are smaller than what the network sees, and so are enlarged, or of the other orientation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from raybench.image_size import written

ORIENTATION, TURNED = 0x0112, range(5, 9)  # EXIF: the picture is turned by a quarter
SAMPLE = 64  # images whose size is read, evenly spread


def enlarged_line(files: Sequence[Path], size: tuple[int, int], dataset: str) -> str:
    """A line where most of `files` don't cover `size` (height, width), or are of the other orientation; else empty."""
    high, wide = size
    chosen = [files[i * len(files) // SAMPLE] for i in range(SAMPLE)] if len(files) > SAMPLE else list(files)
    sizes = [found for path in chosen if (found := _size(path))]
    turned = Counter(found for found in sizes if (found[0] - found[1]) * (wide - high) < 0)
    if 2 * turned.total() > len(sizes):
        (width, height), _ = turned.most_common(1)[0]
        return (
            f"dataset {dataset!r}: most images are {'higher than wide' if wide > high else 'wider than high'}, such as "
            f"{width}x{height}, and image_size {wide}x{high} (width x height) isn't: what lies outside is cut away"
        )
    small = Counter(found for found in sizes if found[0] < wide or found[1] < high)
    if 2 * small.total() <= len(sizes):
        return ""
    (width, height), many = small.most_common(1)[0]
    smaller = min(width, height) if high == wide else written((height, width))
    shown = f"{width}x{height}" if 2 * many > len(sizes) else f"smaller, such as {width}x{height},"
    return (
        f"dataset {dataset!r}: most images are {shown} and are enlarged to {written(size)}; weights that were trained"
        f" at another size lose accuracy: image_size (prune: --image-size {smaller}) sets it"
    )


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION, 1) in TURNED else (width, height)
    except (OSError, ValueError):
        return None
