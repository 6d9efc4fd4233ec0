"""Detection's pictures with the cache of decoded pictures and without: CPU milliseconds an image, one thread.

    python -m tests.benchmarks.bench_pictures COCO_FOLDER [--size 640] [--turns 7]

Epochs with and without the cache take turns in one process; their bytes are compared. The cache lies in a folder of
its own, which is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from raybench.datasets.boxes import BoxData
from raybench.datasets.open import open_dataset
from raybench.datasets.picture_cache import SIZE_GIB
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.detection_images import PlainImages, TrainingImages
from raybench.tasks.detection_training import augmentation

BATCH = 16
Epoch = Callable[[], list[np.ndarray]]


def training(data: BoxData, size: int, *names: str) -> Epoch:
    """An epoch of augmented batches."""
    recipe = TrainRecipe(epochs=100, lr=0.1, augment=names)
    images = TrainingImages(data.train, data.names, size, augmentation(recipe, 0))
    order = np.array_split(np.arange(len(images)), -(-len(images) // BATCH))
    return lambda: [batch["img"].numpy() for batch in images.batches(order, (0, 0), 0)]


def evaluation(data: BoxData, size: int) -> Epoch:
    """An epoch of padded images."""
    images = PlainImages(data.train, size)
    return lambda: [pixels.numpy() for _, pixels in images.batches(BATCH, 0)]


def timed(epoch: Epoch, gib: str) -> tuple[float, list[np.ndarray]]:
    """(CPU seconds, the batches) of an epoch with a cache of so many GiB."""
    os.environ[SIZE_GIB] = gib
    started = time.process_time()
    found = epoch()
    return time.process_time() - started, found


def rows(data: BoxData, size: int, turns: int) -> Iterator[str]:
    """A row for each way of reading."""
    ways = {
        "mosaics, colours, scale, flip": training(data, size, "mosaic", "hsv", "scale", "flip"),
        "scale, flip": training(data, size, "scale", "flip"),
        "evaluation": evaluation(data, size),
    }
    for name, epoch in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            first, _ = timed(epoch, "4")
            took: dict[str, list[float]] = {"4": [], "0": []}
            for _ in range(turns):
                found = {}
                for gib, seconds in took.items():
                    spent, found[gib] = timed(epoch, gib)
                    seconds.append(spent)
                assert all(np.array_equal(a, b) for a, b in zip(found["4"], found["0"], strict=True))
            ratio = statistics.median(b / a for a, b in zip(took["4"], took["0"], strict=True))
            shown = [1e3 * seconds / len(data.train) for seconds in (*map(statistics.median, took.values()), first)]
            cached, decoded, filling = (f"{ms:6.2f}" for ms in shown)
            yield f"{name:<30} cached {cached}  decoded {decoded}  ratio {ratio:4.2f}  first {filling}"


def main() -> None:
    """Print one row for each way of reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(1)
    data = open_dataset("coco", {}, args.folder).opened(None)
    print(f"{len(data.train)} images, {args.size} pixels, {args.turns} turns, CPU ms an image", flush=True)
    for row in rows(data, args.size, args.turns):
        print(row, flush=True)


if __name__ == "__main__":
    main()
