"""Augmentation of whole batches on their device, by gathers and masks; a CPU generator draws the numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.datasets.data import all_crops
from raybench.errors import UserError, unknown
from raybench.sweep.bounds import AUGMENTATIONS
from raybench.sweep.recipe import TrainRecipe

KNOWN = AUGMENTATIONS["classification"]


def check_augment(recipe: TrainRecipe) -> None:
    """UserError for an unknown name in the recipe's `augment`."""
    for name in recipe.augment:
        if name not in KNOWN:
            raise UserError(unknown("augment", name, KNOWN))


def reaches(recipe: TrainRecipe, width: int) -> tuple[int, ...]:
    """By how many pixels each random move of the recipe goes at most, in the order in which they are made."""
    most = {"shift": 1, "crop": max(1, width // 8)}
    return tuple(reach for name, reach in most.items() if name in recipe.augment)


def corner_draws(count: int, most: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Upper and left edge of each image's crop in the padded image, two (b,) int64 on the CPU."""
    return torch.randint(0, 2 * most + 1, (2, count), generator=draw).unbind()


def moved(images: Tensor, most: int, tops: Tensor, lefts: Tensor) -> Tensor:
    """Images padded by `most` black pixels on every side, each cropped at its own (top, left)."""
    rows = torch.arange(len(images), device=images.device)
    return all_crops(F.pad(images, (most,) * 4), most)[rows, :, tops, lefts]


def mirror_draws(count: int, draw: torch.Generator) -> Tensor:
    """Which images are mirrored, (b, 1, 1, 1) bool on the CPU."""
    return (torch.rand(count, generator=draw) < 0.5).view(-1, 1, 1, 1)


def mirrored(images: Tensor, which: Tensor) -> Tensor:
    """The images with those of `which` mirrored left to right."""
    return torch.where(which, images.flip(3), images)


def erasing_draws(shape: tuple[int, ...], recipe: TrainRecipe, draw: torch.Generator) -> tuple[Tensor, Tensor] | None:
    """Random erasing (Zhong et al. 2020) of normalised images: a box of noise in a share of them.

    2-33 % of the area, aspect ratio 0.3 to 3.3, one box (the paper's ranges), normal noise for each pixel (as timm).
    Returns (which pixels are noise (b, 1, h, w) bool, the noise (b, c, h, w)) on the CPU; None where nothing is erased.
    Boxes are filled one after another, each with as many numbers as it has pixels.
    """
    if not recipe.random_erasing:
        return None
    count, channels, height, width = shape
    numbers = torch.rand(count, 5, generator=draw)
    chosen = (numbers[:, 0] < recipe.random_erasing).nonzero().flatten()
    _, area, ratio, down, right = numbers[chosen].unbind(1)
    area = (0.02 + 0.31 * area) * height * width
    ratio = torch.exp((2 * ratio - 1) * torch.log(torch.tensor(1 / 0.3)))
    tall, wide = (area * ratio).sqrt().clamp(1, height).round(), (area / ratio).sqrt().clamp(1, width).round()
    top, left = (down * (height - tall)).floor(), (right * (width - wide)).floor()
    inside, noise = torch.zeros(count, 1, height, width, dtype=torch.bool), torch.zeros(shape)
    for index, y, x, h, w in torch.stack([chosen, top, left, tall, wide], 1).long().tolist():
        inside[index, :, y : y + h, x : x + w] = True
        noise[index, :, y : y + h, x : x + w] = torch.randn(channels, h, w, generator=draw)
    return inside, noise
