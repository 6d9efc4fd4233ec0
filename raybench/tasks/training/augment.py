"""Augmentation of a whole batch of tensors at once, on the device the batch is on. Draws come from a CPU generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.errors import UserError, unknown
from raybench.spec.trial import TrainRecipe

KNOWN = ("shift", "flip", "crop", "resized-crop")


def check_augment(recipe: TrainRecipe) -> None:
    """UserError for a name in `augment` that nothing answers to."""
    for name in recipe.augment:
        if name not in KNOWN:
            raise UserError(unknown("augment", name, KNOWN))


def augmented(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """Shifted and flipped (b, c, h, w) images in 0..1, as `recipe.augment` says ("resized-crop" is the loader's)."""
    if "shift" in recipe.augment:
        images = shifted(images, 1, draw)
    if "crop" in recipe.augment:
        images = shifted(images, max(1, images.shape[-1] // 8), draw)
    if "flip" in recipe.augment:
        images = flipped(images, draw)
    return images


def shifted(images: Tensor, most: int, draw: torch.Generator) -> Tensor:
    """Each image moved by up to `most` pixels in both directions over black: pad-and-crop (He et al. 2016)."""
    count, channels, height, width = images.shape
    by = torch.randint(0, 2 * most + 1, (2, count, 1), generator=draw).to(images.device)
    rows = by[0] + torch.arange(height, device=images.device)  # (b, h) into the padded image
    columns = by[1] + torch.arange(width, device=images.device)
    padded = F.pad(images, (most,) * 4)
    rows = rows[:, None, :, None].expand(-1, channels, -1, padded.shape[-1])
    columns = columns[:, None, None, :].expand(-1, channels, height, -1)
    return padded.gather(2, rows).gather(3, columns)


def flipped(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    mirror = torch.rand(len(images), generator=draw) < 0.5
    return torch.where(mirror.to(images.device)[:, None, None, None], images.flip(3), images)


def erased(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020) of normalised images: a box of noise in a share of them.

    2-33 % of the area, aspect ratio 0.3 to 3.3, one box, normal noise a pixel: the paper's ranges, timm's fill.
    """
    if not recipe.random_erasing:
        return images
    count, _, height, width = images.shape
    numbers = torch.rand(count, 5, generator=draw)
    area = (0.02 + 0.31 * numbers[:, 1]) * height * width
    ratio = torch.exp((2 * numbers[:, 2] - 1) * torch.log(torch.tensor(1 / 0.3)))
    tall, wide = (area * ratio).sqrt().clamp(1, height).round(), (area / ratio).sqrt().clamp(1, width).round()
    top, left = (numbers[:, 3] * (height - tall)).floor(), (numbers[:, 4] * (width - wide)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    inside = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    across = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    box = (inside[:, :, None] & across[:, None, :]) & (numbers[:, 0] < recipe.random_erasing)[:, None, None]
    noise = torch.randn(images.shape, generator=draw)
    return torch.where(box[:, None].to(images.device), noise.to(images.device), images)


def randaugmented(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """RandAugment of magnitude `recipe.randaugment`, 0 for none."""
    if not recipe.randaugment:
        return images
    from raybench.tasks.training.randaugment import randaugment

    return randaugment(images, recipe.randaugment, draw)
