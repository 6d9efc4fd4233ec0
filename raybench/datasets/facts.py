"""Static facts of a dataset (classes, channels, image size, pixel statistics) and the names of its splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from raybench.image_size import Side, sides

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class DataFacts:
    """Facts that a model and a results table need. Pixel mean and std are those of images scaled to 0..1."""

    name: str
    task: str
    classes: int
    in_channels: int
    image_size: Side  # of a square, or (height, width)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    class_names: tuple[str, ...] = ()  # in the order of the labels; empty where they are not known
    built_for: Side | None = None  # size that networks are built for, where images were scaled to another; else None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image as the network takes it."""
        return (self.in_channels, *sides(self.image_size))

    @property
    def own(self) -> DataFacts:
        """The facts with images of the size that networks are built for."""
        return self if self.built_for is None else replace(self, image_size=self.built_for, built_for=None)
