"""Static facts of a dataset (classes, channels, image size, pixel statistics) and the names of its splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class DataFacts:
    """Facts that a model and a results table need. Pixel mean and std are those of images scaled to 0..1."""

    name: str
    task: str
    classes: int
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
