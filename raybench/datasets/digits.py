"""scikit-learn's handwritten digits: 1,797 real images, embedded in the library, nothing to download."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.datasets.splits import stratified
from raybench.registry import dataset

FILE = Path("datasets", "data", "digits.csv.gz")  # within scikit-learn


@dataset(
    "digits",
    task="classification",
    classes=10,
    class_names=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    in_channels=1,
    image_size=8,
    mean=(0.305,),
    std=(0.376,),
    licence="CC BY 4.0 (UCI Optical Recognition of Handwritten Digits)",
    embedded=True,
)
def digits(facts: DataFacts, root: Path | None, *, split_seed: int = 0) -> Data:
    """1,797 grey 8x8 digits: 20 % test, then 10 % of the rest validation, each stratified by class and seeded."""
    images, classes = handwritten()
    pixels = Pixels(torch.tensor(images, dtype=torch.float32).div_(16).unsqueeze(1))  # 17 grey levels
    labels = torch.tensor(classes, dtype=torch.long)
    rest, test = stratified(labels, 0.2, split_seed, facts.classes, facts.name)
    train, val = stratified(labels[rest], 0.1, split_seed + 1, facts.classes, facts.name)
    indices = {"train": rest[train], "val": rest[val], "test": test, "whole": rest}
    splits = {name: TensorImages(pixels, labels, chosen) for name, chosen in indices.items()}
    return Data(facts, split_note=f"stratified 72/8/20 % train/val/test, seed {split_seed}", **splits)


@cache
def handwritten() -> tuple[np.ndarray, np.ndarray]:
    """((1797, 8, 8) grey levels 0 to 16 as floats, (1797,) classes) of scikit-learn, read-only and kept.

    They are read from the library's file, as importing it takes most of a second in each process.
    """
    library = find_spec("sklearn")
    assert library is not None  # a dependency of raybench
    assert library.origin is not None
    table = np.loadtxt(Path(library.origin).parent / FILE, delimiter=",")
    images, classes = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    for array in (images, classes):
        array.setflags(write=False)
    return images, classes
