"""What an opened dataset is: facts and three splits of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raybench.tasks.protocol import DataFacts, Split


class Images(Protocol):
    """One split of an image dataset, on whatever medium."""

    labels: Tensor  # (n,) int64, on the CPU

    def __len__(self) -> int:
        """Number of images."""

    def batches(
        self, order: Sequence[Tensor], device: torch.device, crops: Sequence[Tensor] | None
    ) -> Iterator[Tensor]:
        """For each of `order`'s index tensors the images, (b, channels, h, w) float32 in 0..1, on `device`.

        `crops`: one (b, 4) tensor of uniform numbers a batch, from which `random_boxes` makes a random resized crop
        of each image; None: the whole image (its centre, where images are larger than `image_size`).
        """


@dataclass(frozen=True)
class Data:
    """A dataset, opened: selection reads `val`, the final figure reads `test` once."""

    facts: DataFacts
    train: Images
    val: Images
    test: Images
    split_note: str  # how the three were made, in words

    def split(self, name: Split) -> Images:
        """The split called `name`."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


class TensorImages:
    """A split that fits into memory: (n, channels, h, w) pixels, uint8 or float32 in 0..1, and labels."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        assert len(pixels) == len(labels), (pixels.shape, labels.shape)
        self.labels = labels.long()
        self._pixels = pixels
        self._there: Tensor | None = None  # the pixels on the device asked for last

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def batches(
        self, order: Sequence[Tensor], device: torch.device, crops: Sequence[Tensor] | None
    ) -> Iterator[Tensor]:
        """Images by index; see `Images.batches`."""
        if self._there is None or self._there.device != device:
            self._there = self._pixels.to(device)
        for number, indices in enumerate(order):
            images = self._there[indices.to(device)]
            if images.dtype == torch.uint8:
                images = images.float().div_(255)
            yield images if crops is None else crop_resized(images, crops[number])


def random_boxes(draws: Tensor, height: float, width: float) -> Tensor:
    """Boxes (b, 4) = top, left, height, width in pixels, from uniform `draws` (b, 4), each inside the image.

    Inception's crop (Szegedy et al. 2015, as torchvision's RandomResizedCrop): area 8-100 % of the image, aspect
    ratio 3/4 to 4/3 in log scale; a box that sticks out is cut to the image instead of drawn again.
    """
    area = (0.08 + 0.92 * draws[:, 0]) * height * width
    ratio = torch.exp((2 * draws[:, 1] - 1) * torch.log(torch.tensor(4 / 3)))
    tall = (area / ratio).sqrt().clamp(1, height)
    wide = (area * ratio).sqrt().clamp(1, width)
    return torch.stack([draws[:, 2] * (height - tall), draws[:, 3] * (width - wide), tall, wide], 1)


def crop_resized(images: Tensor, draws: Tensor) -> Tensor:
    """A random box of each image, (b, c, h, w), resampled bilinearly to the full size."""
    height, width = images.shape[-2:]
    top, left, tall, wide = random_boxes(draws, height, width).to(images.device).unbind(1)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = wide / width, tall / height
    theta[:, 0, 2] = (2 * left + wide) / width - 1
    theta[:, 1, 2] = (2 * top + tall) / height - 1
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
