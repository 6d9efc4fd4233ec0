"""Augmentations of a batch in one call each: the draws and the pixels as a training epoch combines them."""

from __future__ import annotations

import torch
from torch import Tensor

from raybench.datasets.data import Pixels, TensorImages
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.augment import corner_draws, erasing_draws, mirror_draws, mirrored, moved, reaches
from raybench.tasks.training.mix import Mixed, mix_draws, mixed_images
from raybench.tasks.training.randaugment import operation_draws, with_operations


def augmented(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """(b, c, h, w) images, shifted and flipped as in `recipe.augment` (the loader does "resized-crop")."""
    for most in reaches(recipe, images.shape[-1]):
        images = shifted(images, most, draw)
    if "flip" in recipe.augment:
        images = flipped(images, draw)
    return images


def crop_resized(images: Tensor, draws: Tensor) -> Tensor:
    """A random box of each image (b, c, h, w), by its numbers (b, 4), resampled to the full size."""
    every = torch.arange(len(images))
    (cropped,) = TensorImages(Pixels(images), every, every).batches([every], images.device, [draws])
    return cropped


def shifted(images: Tensor, most: int, draw: torch.Generator) -> Tensor:
    """Each image padded with black and cropped, i.e. moved by up to `most` pixels (He et al. 2016)."""
    tops, lefts = corner_draws(len(images), most, draw)
    return moved(images, most, tops.to(images.device), lefts.to(images.device))


def flipped(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    return mirrored(images, mirror_draws(len(images), draw).to(images.device))


def erased(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2020) of normalised images: a box of noise in a share of them.

    2-33 % of the area, aspect ratio 0.3 to 3.3, one box (the paper's ranges), normal noise for each pixel (as timm).
    """
    drawn = erasing_draws(tuple(images.shape), recipe, draw)
    if drawn is None:
        return images
    inside, noise = drawn
    return torch.where(inside.to(images.device), noise.to(images), images)


def randaugmented(images: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Tensor:
    """RandAugment of magnitude `recipe.randaugment`; 0 changes nothing."""
    if not recipe.randaugment:
        return images
    return randaugment(images, recipe.randaugment, draw)


def randaugment(images: Tensor, magnitude: int, draw: torch.Generator) -> Tensor:
    """Apply two random operations of `magnitude` (1..10) and random sign to each of (b, c, h, w) images in 0..1.

    Operations and signs are drawn from `draw`; images with the same operation and sign are processed together.
    """
    return with_operations(images, magnitude, operation_draws(len(images), draw))


def mix(images: Tensor, labels: Tensor, recipe: TrainRecipe, draw: torch.Generator) -> Mixed:
    """Apply mixup or cutmix; if the recipe has both, each with probability 0.5 (timm's `switch_prob`).

    The batch's share is drawn from Beta(a, a), a = `recipe.mixup` or `recipe.cutmix`; for cutmix it is then corrected
    to the area that is kept exactly.
    """
    draws = mix_draws(tuple(images.shape), recipe, draw)
    if draws is None:
        return Mixed(images, labels, labels)
    order, kept = draws.order.to(images.device), None if draws.kept is None else draws.kept.to(images.device)
    return Mixed(mixed_images(images, order, draws.share, kept), labels, labels[order], draws.share)
