"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch with a permutation of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raybench.sweep.trial import TrainRecipe


@dataclass(frozen=True)
class Mixed:
    """A mixed batch: the target of each image is share * label + (1 - share) * other."""

    images: Tensor
    labels: Tensor
    others: Tensor
    share: float = 1.0


def mix(images: Tensor, labels: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Mixed:
    """Apply mixup or cutmix; if the recipe has both, each with probability 0.5 (timm's `switch_prob`).

    The batch's share is drawn from Beta(a, a), a = `recipe.mixup` or `recipe.cutmix`; for cutmix it is then corrected
    to the area that is kept exactly.
    """
    if not (recipe.mixup or recipe.cutmix):
        return Mixed(images, labels, labels)
    numbers = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
    order = torch.randperm(len(images), generator=draw).to(images.device)
    cutting = recipe.cutmix > 0 and (not recipe.mixup or numbers[0] < 0.5)
    share = _beta(recipe.cutmix if cutting else recipe.mixup, numbers[1])
    if not cutting:
        return Mixed(images.mul(share).add_(images[order], alpha=1 - share), labels, labels[order], share)
    height, width = images.shape[-2:]
    top, bottom = _cut(height, math.sqrt(1 - share), numbers[2])
    left, right = _cut(width, math.sqrt(1 - share), numbers[3])
    images = images.clone()
    images[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return Mixed(images, labels, labels[order], kept)


def _beta(alpha: float, uniform: float) -> float:
    """A Beta(alpha, alpha) number that depends only on `uniform` in 0..1."""
    return float(np.random.Generator(np.random.PCG64(int(uniform * 2**53))).beta(alpha, alpha))


def _cut(size: int, part: float, centre: float) -> tuple[int, int]:
    """(first, last + 1) pixel of an interval of length `part` * `size` around `centre` (0..1), clipped to the image."""
    half, middle = int(size * part) // 2, int(centre * size)
    return max(middle - half, 0), min(middle + half, size)
