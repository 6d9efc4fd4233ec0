"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of a batch with itself in another order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raybench.spec.trial import TrainRecipe


@dataclass(frozen=True)
class Mixed:
    """A batch whose images hold `share` of `labels` and the rest of `others`."""

    images: Tensor
    labels: Tensor
    others: Tensor
    share: float = 1.0


def mix(images: Tensor, labels: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Mixed:
    """One of the two that the recipe switches on, evenly (timm's `switch_prob` 0.5), with one share a batch.

    The share is Beta(a, a) with a = `recipe.mixup` or `recipe.cutmix`; cutmix's is the area that really stays.
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
    """One Beta(alpha, alpha) number that depends on `uniform` alone."""
    return float(np.random.Generator(np.random.PCG64(int(uniform * 2**53))).beta(alpha, alpha))


def _cut(size: int, part: float, centre: float) -> tuple[int, int]:
    """First and last + 1 pixel of a stretch of `part` of `size` around `centre` (0..1), cut at the border."""
    half, middle = int(size * part) // 2, int(centre * size)
    return max(middle - half, 0), min(middle + half, size)
