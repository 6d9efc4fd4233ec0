"""Detection without a download: scikit-learn's handwritten digits pasted on canvases, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from raybench.datasets.boxes import BoxData, BoxImages, Collector
from raybench.datasets.digits import handwritten
from raybench.datasets.facts import DataFacts
from raybench.registry import dataset

MOST, TRIES = 4, 20  # digits on a canvas at most; places tried for each digit
SIZES = (16, 41)  # side of a pasted digit in pixels: 16 to 40
POOLS = {"train": slice(0, 1200), "val": slice(1200, 1400), "test": slice(1400, 1797)}  # no digit is in two splits


@dataset(
    "digits-detection",
    task="detection",
    classes=10,
    in_channels=3,
    image_size=96,
    scenes=True,  # its parameter image_size makes other scenes, it scales none
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    licence="CC BY 4.0 (UCI Optical Recognition of Handwritten Digits)",
    embedded=True,
)
def digits_detection(
    facts: DataFacts,
    root: Path | None,
    *,
    train: int = 400,
    val: int = 100,
    test: int = 200,
    image_size: int = 96,
    seed: int = 0,
) -> BoxData:
    """Grey canvases with 1 to 4 digits in random places and sizes; `train`, `val` and `test` are numbers of images."""
    grey, classes = handwritten()
    splits: dict[str, BoxImages] = {}
    for place, (name, count) in enumerate((("train", train), ("val", val), ("test", test))):
        draw = np.random.Generator(np.random.PCG64([seed, place]))
        digits, labels = grey[POOLS[name]], classes[POOLS[name]]
        splits[name] = _split(digits, labels, count, image_size, draw, f"digits-detection {name}")
    names = tuple(map(str, range(10)))
    note = f"{train}/{val}/{test} canvases train/val/test of different digits, seed {seed}"
    return BoxData(
        replace(facts, image_size=image_size), names, splits["train"], splits["val"], splits["test"], note
    ).checked()


def _split(
    digits: np.ndarray, labels: np.ndarray, count: int, size: int, draw: np.random.Generator, where: str
) -> BoxImages:
    """`count` canvases of `size` x `size` pixels with digits drawn from `digits` (n, 8, 8)."""
    collector = Collector(where, 10)
    canvases = []
    for number in range(count):
        canvas = draw.integers(0, 40, (size, size), dtype=np.int64)  # faint noise
        collector.add_image(f"{number:05d}.png", size, size)
        for box, label in _paste(canvas, digits, labels, draw):
            collector.add_box(number, box, label, False)
        canvases.append(np.repeat(canvas.astype(np.uint8)[:, :, None], 3, 2))
    return collector.finish(None, canvases)


def _paste(
    canvas: np.ndarray, digits: np.ndarray, labels: np.ndarray, draw: np.random.Generator
) -> list[tuple[Sequence[float], int]]:
    """Paste 1 to MOST digits that don't overlap; (x1, y1, x2, y2) of the ink and label of each."""
    placed: list[tuple[Sequence[float], int]] = []
    squares: list[tuple[int, int, int]] = []
    for _ in range(int(draw.integers(1, MOST + 1))):
        which, side = int(draw.integers(len(digits))), int(draw.integers(*SIZES))
        index = np.arange(side) * 8 // side
        ink = digits[which][index][:, index] * (255 / 16)
        for _ in range(TRIES):
            x, y = (int(v) for v in draw.integers(0, len(canvas) - side + 1, 2))
            if all(x + side <= a or a + s <= x or y + side <= b or b + s <= y for a, b, s in squares):
                break
        else:
            continue
        squares.append((x, y, side))
        window = canvas[y : y + side, x : x + side]
        np.maximum(window, ink.astype(np.int64), out=window)
        rows, columns = np.nonzero(ink.any(1))[0], np.nonzero(ink.any(0))[0]
        box = x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1
        placed.append((tuple(map(float, box)), int(labels[which])))
    return placed
