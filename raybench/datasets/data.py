"""Opened classification datasets: facts and splits of images, in memory or on disk."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.datasets.facts import DataFacts, Split
from raybench.datasets.statistics import View
from raybench.errors import NotSupported

SCALED_AT_ONCE = 4096  # images


class Images(Protocol):
    """One split of an image dataset, in memory or on disk."""

    labels: Tensor  # (n,) int64, on the CPU

    def seen_as(self, view: View) -> Images:
        """The same images, resized and cropped by `view`; images in memory stay as they are."""

    def __len__(self) -> int:
        """Number of images."""

    def batches(
        self, order: Sequence[Tensor], device: torch.device, crops: Sequence[Tensor] | None
    ) -> Iterator[Tensor]:
        """Yield the images of each index tensor in `order`: (b, channels, h, w) float32 in 0..1, on `device`.

        `crops`: for each batch a (b, 4) tensor of uniform random numbers, from which `random_boxes` computes a random
        resized crop of each image; None: the whole image (its centre, where images are larger than `image_size`).
        """


@dataclass(frozen=True)
class Data:
    """An opened dataset: epochs are selected on `val`, the final figure is measured once on `test`."""

    facts: DataFacts
    train: Images
    val: Images
    test: Images
    whole: Images  # train and val together, for protocols without a validation split
    split_note: str  # how the splits were made, for people

    def split(self, name: Split) -> Images:
        """The split called `name`."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def seen_as(self, view: View) -> Data:
        """The same data normalised, resized and cropped as in `view`; unchanged if `view` has other channels."""
        if len(view.mean) != self.facts.in_channels:
            return self
        parts = {name: getattr(self, name).seen_as(view) for name in ("train", "val", "test", "whole")}
        return replace(self, facts=replace(self.facts, mean=view.mean, std=view.std), **parts)

    def resized(self, size: int) -> Data:
        """The same data with images scaled to squares of `size`, for networks built for their own size.

        Raises:
            NotSupported: images are read from files, at one size.
        """
        parts = {name: getattr(self, name) for name in ("train", "val", "test", "whole")}
        if not all(isinstance(part, TensorImages) for part in parts.values()):
            raise NotSupported(f"image size {size}: {self.facts.name} reads its images from files at one size")
        facts = replace(self.facts, image_size=size, built_for=self.facts.image_size)
        return replace(self, facts=facts, **{name: part.resized(size) for name, part in parts.items()})

    def training_on_all(self) -> Data:
        """The same data with nothing held out of `train`."""
        return replace(self, train=self.whole, split_note=f"{self.split_note}; trained on train and val")


class Pixels:
    """All images of a dataset that fits into memory: (n, channels, h, w), uint8 or float32 in 0..1."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._margin = values, 0
        self._framed = values  # `values` with a black margin
        self._windows: dict[int, Tensor] = {}  # views of `_framed`
        self._sizes: dict[int, Pixels] = {}  # the same images, scaled

    @property
    def shape(self) -> torch.Size:
        """Images, channels, height, width."""
        return self._values.shape

    def at(self, device: torch.device) -> Tensor:
        """The pixels on `device`; they are moved at the first call and stay there."""
        moved = self._framed.to(device)
        if moved is not self._framed:
            self._framed = moved
            self._values = self._inner(self._margin)
            self._windows.clear()
        return self._values

    def windows(self, most: int, device: torch.device) -> Tensor:
        """All crops after padding by `most` black pixels: a view (n, channels, 2 most + 1, 2 most + 1, h, w).

        The images get a black margin at the first call; `at` then gives out what lies inside it.
        """
        values = self.at(device)
        if most > self._margin:
            self._framed, self._margin = F.pad(values, (most,) * 4), most
            self._values = self._inner(self._margin)
            self._windows.clear()
        if most not in self._windows:
            self._windows[most] = all_crops(self._inner(self._margin - most), most)
        return self._windows[most]

    def resized(self, size: int) -> Pixels:
        """The same images scaled to squares of `size`, bilinearly, with antialiasing; scaled once for all splits."""
        if size not in self._sizes:
            parts = [
                F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
                for part in self._values.split(SCALED_AT_ONCE)
            ]
            values = torch.cat(parts)
            whole = self._values.dtype == torch.uint8
            self._sizes[size] = Pixels(values.round().clamp(0, 255).to(torch.uint8) if whole else values)
        return self._sizes[size]

    def _inner(self, cut: int) -> Tensor:
        """The framed images without `cut` pixels on every side."""
        height, width = self._framed.shape[2:]
        return self._framed[:, :, cut : height - cut, cut : width - cut]


def all_crops(padded: Tensor, most: int) -> Tensor:
    """All crops of images that were padded by `most`, as a view: (b, c, 2 most + 1, 2 most + 1, h, w)."""
    count, channels, height, width = padded.shape
    places = (2 * most + 1,) * 2
    image, channel, row, column = padded.stride()
    shape = (count, channels, *places, height - 2 * most, width - 2 * most)
    return padded.as_strided(shape, (image, channel, row, column, row, column), padded.storage_offset())


class TensorImages:
    """A split in memory: the images with indices `chosen` (n,) of `pixels` and `labels`, which hold all images."""

    def __init__(self, pixels: Pixels, labels: Tensor, chosen: Tensor) -> None:
        self.labels = labels[chosen].long()
        self._pixels, self._chosen = pixels, chosen

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(self._pixels.shape[1:])

    def seen_as(self, view: View) -> TensorImages:
        """The split itself: pixels in memory already have the network's image size."""
        return self

    def resized(self, size: int) -> TensorImages:
        """The same split with images scaled to squares of `size`."""
        other = copy.copy(self)
        other._pixels = self._pixels.resized(size)
        return other

    def batches(
        self, order: Sequence[Tensor], device: torch.device, crops: Sequence[Tensor] | None
    ) -> Iterator[Tensor]:
        """Images by index; see `Images.batches`."""
        pixels = self._pixels.at(device)
        boxes = None if crops is None else _placed_boxes(crops, self.shape[1:], device)
        for number, place in enumerate(self.places(order, device)):
            images = in_floats(pixels[place])
            yield images if boxes is None else _resampled(images, boxes[number])

    def places(self, order: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
        """Where the images of each index tensor lie among all images, as indices on `device`; moved there at once."""
        return self._chosen[torch.cat(tuple(order))].to(device).split([len(one) for one in order]) if order else ()

    def raw(self, place: Tensor, most: int, corners: tuple[Tensor, Tensor] | None) -> Tensor:
        """The images at `place`, uint8 or float32; with `corners` moved by up to `most`: (top, left) of each crop."""
        if corners is None:
            return self._pixels.at(place.device)[place]
        return self._pixels.windows(most, place.device)[place, :, corners[0], corners[1]]


def in_floats(images: Tensor) -> Tensor:
    """Images in 0..1, from bytes or from such floats; in place for none."""
    return torch.div(images, 255) if images.dtype == torch.uint8 else images


def random_boxes(draws: Tensor, heights: Tensor, widths: Tensor, shape: float = 1.0) -> Tensor:
    """Boxes (b, 4) = top, left, height, width in pixels, from uniform `draws` (b, 4), each inside its image.

    Inception's crop (Szegedy et al. 2015, as torchvision's RandomResizedCrop): area 8-100 % of the image, aspect
    ratio (width / height) 3/4 to 4/3 of `shape`, in log scale; a box larger than the image is cut to it instead of
    drawn again.
    """
    area = (0.08 + 0.92 * draws[:, 0]) * heights * widths
    ratio = shape * torch.exp((2 * draws[:, 1] - 1) * torch.log(torch.tensor(4 / 3)))
    tall = torch.minimum((area / ratio).sqrt().clamp(min=1), heights)
    wide = torch.minimum((area * ratio).sqrt().clamp(min=1), widths)
    return torch.stack([draws[:, 2] * (heights - tall), draws[:, 3] * (widths - wide), tall, wide], 1)


def _placed_boxes(crops: Sequence[Tensor], size: tuple[int, ...], device: torch.device) -> Sequence[Tensor]:
    """For each batch of `crops` (b, 4) the matrices (b, 2, 3) that place boxes in images of `size`; moved at once."""
    if not crops:
        return ()
    height, width = size
    found = []
    for draws in crops:  # each batch by itself: the last bits of an exponential may depend on its place in a tensor
        sizes = torch.full((len(draws),), float(height)), torch.full((len(draws),), float(width))
        found.append(random_boxes(draws, *sizes))
    top, left, tall, wide = torch.cat(found).unbind(1)
    theta = torch.zeros(len(top), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = wide / width, tall / height
    theta[:, 0, 2] = (2 * left + wide) / width - 1
    theta[:, 1, 2] = (2 * top + tall) / height - 1
    return theta.to(device).split([len(draws) for draws in crops])


def _resampled(images: Tensor, boxes: Tensor) -> Tensor:
    """A box of each image (b, c, h, w), by its matrix (b, 2, 3), resampled bilinearly to the full size."""
    grid = F.affine_grid(boxes, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
