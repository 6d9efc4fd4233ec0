"""Augmentation of batches of tensors on their device; random numbers come from a CPU generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raybench.errors import UserError, unknown
from raybench.sweep.bounds import AUGMENTATIONS
from raybench.sweep.trial import TrainRecipe

KNOWN = AUGMENTATIONS["classification"]


def check_augment(recipe: TrainRecipe) -> None:
    """UserError for an unknown name in the recipe's `augment`."""
    for name in recipe.augment:
        if name not in KNOWN:
            raise UserError(unknown("augment", name, KNOWN))


def augmented(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """(b, c, h, w) images in 0..1, shifted and flipped as in `recipe.augment` (the loader does "resized-crop")."""
    if "shift" in recipe.augment:
        images = shifted(images, 1, draw)
    if "crop" in recipe.augment:
        images = shifted(images, max(1, images.shape[-1] // 8), draw)
    if "flip" in recipe.augment:
        images = flipped(images, draw)
    return images


def shifted(images: Tensor, most: int, draw: torch.Generator) -> Tensor:
    """Each image padded with black and cropped, i.e. moved by up to `most` pixels (He et al. 2016)."""
    count, _, height, width = images.shape
    tops, lefts = torch.randint(0, 2 * most + 1, (2, count), generator=draw).tolist()
    padded = F.pad(images, (most,) * 4)
    windows = zip(padded, tops, lefts, strict=True)
    return torch.stack([image[:, y : y + height, x : x + width] for image, y, x in windows])


def flipped(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    mirror = (torch.rand(len(images), generator=draw) < 0.5).tolist()
    return torch.stack([image.flip(2) if turn else image for image, turn in zip(images, mirror, strict=True)])


def erased(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020) of normalised images: a box of noise in a share of them.

    2-33 % of the area, aspect ratio 0.3 to 3.3, one box (the paper's ranges), normal noise for each pixel (as timm).
    """
    if not recipe.random_erasing:
        return images
    height, width = images.shape[2:]
    numbers = torch.rand(len(images), 5, generator=draw)
    chosen = (numbers[:, 0] < recipe.random_erasing).nonzero().flatten()
    _, area, ratio, down, right = numbers[chosen].unbind(1)
    area = (0.02 + 0.31 * area) * height * width
    ratio = torch.exp((2 * ratio - 1) * torch.log(torch.tensor(1 / 0.3)))
    tall, wide = (area * ratio).sqrt().clamp(1, height).round(), (area / ratio).sqrt().clamp(1, width).round()
    top, left = (down * (height - tall)).floor(), (right * (width - wide)).floor()
    images = images.clone()
    for box in torch.stack([chosen, top, left, tall, wide], 1).long().tolist():
        index, y, x, h, w = box
        noise = torch.randn(images.shape[1], h, w, generator=draw)
        images[index, :, y : y + h, x : x + w] = noise.to(images)
    return images


def randaugmented(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """RandAugment of magnitude `recipe.randaugment`; 0 changes nothing."""
    if not recipe.randaugment:
        return images
    from raybench.tasks.training.randaugment import randaugment

    return randaugment(images, recipe.randaugment, draw)
