"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch with a permutation of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raybench.sweep.recipe import TrainRecipe


@dataclass(frozen=True)
class Mixed:
    """A mixed batch: the target of each image is share * label + (1 - share) * other."""

    images: Tensor
    labels: Tensor
    others: Tensor
    share: float | Tensor = 1.0  # a number, or a scalar on the device where a CUDA graph reads it
    part: float = 1.0  # of the batch that these images are; the rest is with other processes of a team


@dataclass(frozen=True)
class MixDraws:
    """What was drawn for one batch."""

    order: Tensor  # (b,) int64, the image that each one is mixed with
    share: float  # of the image itself
    kept: Tensor | None  # (1, 1, h, w) bool, which pixels stay; None: all are mixed


def mix_draws(shape: tuple[int, ...], recipe: TrainRecipe, draw: torch.Generator) -> MixDraws | None:
    """Draw for a batch of `shape` (b, c, h, w), on the CPU; None where the recipe doesn't mix.

    Mixup or cutmix; if the recipe has both, each with probability 0.5 (timm's `switch_prob`). The batch's share is
    drawn from Beta(a, a), a = `recipe.mixup` or `recipe.cutmix`; for cutmix it is then corrected to the area that is
    kept exactly.
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    numbers = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
    order = torch.randperm(shape[0], generator=draw)
    cutting = recipe.cutmix > 0 and (not recipe.mixup or numbers[0] < 0.5)
    share = _beta(recipe.cutmix if cutting else recipe.mixup, numbers[1])
    if not cutting:
        return MixDraws(order, share, None)
    height, width = shape[-2:]
    top, bottom = _cut(height, math.sqrt(1 - share), numbers[2])
    left, right = _cut(width, math.sqrt(1 - share), numbers[3])
    kept = torch.ones(1, 1, height, width, dtype=torch.bool)
    kept[:, :, top:bottom, left:right] = False
    return MixDraws(order, 1 - (bottom - top) * (right - left) / (height * width), kept)


def mixed_images(images: Tensor, order: Tensor, share: float, kept: Tensor | None) -> Tensor:
    """Each image with image `order` mixed in (mixup), or pasted in where not `kept` (cutmix)."""
    if kept is not None:
        return torch.where(kept, images, images[order])
    return images.mul(share).add_(images[order], alpha=1 - share)


def _beta(alpha: float, uniform: float) -> float:
    """A Beta(alpha, alpha) number that depends only on `uniform` in 0..1."""
    return float(np.random.Generator(np.random.PCG64(int(uniform * 2**53))).beta(alpha, alpha))


def _cut(size: int, part: float, centre: float) -> tuple[int, int]:
    """(first, last + 1) pixel of an interval of length `part` * `size` around `centre` (0..1), clipped to the image."""
    half, middle = int(size * part) // 2, int(centre * size)
    return max(middle - half, 0), min(middle + half, size)
