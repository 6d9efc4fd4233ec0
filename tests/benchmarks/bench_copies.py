"""Cells an hour of one device with 1, 2, 4 and 8 copies of a training step side by side. No ray, no network.

    python -m tests.benchmarks.bench_copies [MODEL ...] [--device cuda] [--batch 128]

It is the measurement by which `resources: {gpus: auto}` chooses the share of a cell, here on handwritten digits: each
copy is a process of its own, which trains for five seconds while the others do. Each row has the peak memory of one
copy (on a CPU that of its process, libraries included), the milliseconds of a step in each, images a second of all
together, and the cells that the device ends in an hour, by the steps of fine-tuning in the recipe `quick`. There are as
many copies as the machine has processor cores, at most 8.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from raybench.pipeline.context import StageContext
from raybench.pipeline.probe import measuring
from raybench.pipeline.side_by_side import SideBySide
from raybench.plan.plan import plan
from raybench.plan.share import Copies
from raybench.plan.shares import largest_stage
from raybench.provenance import usable_cores
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from raybench.tasks.open import open_task

SWEEP = """
name: copies
models: {model}
datasets: digits
methods: magnitude-l1
speedups: 2
device: {device}
recipe: {{extends: quick, finetune: {{batch_size: {batch}}}}}
"""


def rows(model: str, device: torch.device, batch: int) -> Iterator[str]:
    """A row for each number of copies that fit, as it is measured."""
    with tempfile.TemporaryDirectory() as folder:
        file, storage = Path(folder) / "copies.yaml", open_storage(str(Path(folder) / "store"))
        file.write_text(SWEEP.format(model=model, device=device.type, batch=batch))
        trial = plan(load_sweep(file), storage).units[-1].trials[0]
        context = StageContext(storage, device)
        size = largest_stage(trial).batch_size
        images = open_task(trial, {}, device, storage).training_images  # type: ignore[attr-defined]
        steps = trial.tuning.epochs * math.ceil(images / size)
        for one in measuring(SideBySide(trial, context), steps, usable_cores()):
            yield f"{model:<16} {text(one, size)}"


def text(one: Copies | str, size: int) -> str:
    """One number of copies, or why there are no more."""
    if isinstance(one, str):
        return f"no more copies: {one}"
    return (
        f"{one.copies:>2} at once  {one.memory_mb:7.0f} MiB each  {1000 * one.step_s:8.2f} ms a step of {size}  "
        f"{one.copies * size / one.step_s:9.0f} images/s  {one.cells_an_hour:7.0f} cells/h"
    )


def main() -> None:
    """Print the rows of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["cifar-resnet20", "cifar-resnet18"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128, help="images of a step of fine-tuning")
    args = parser.parse_args()
    for model in args.models:
        for row in rows(model, torch.device(args.device), args.batch):
            print(row, flush=True)


if __name__ == "__main__":
    main()
