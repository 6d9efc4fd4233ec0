"""Progressive resizing: training starts with smaller images, which cost less, and ends with whole ones."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from raybench.error_text import first_line
from raybench.errors import UserError
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.mix import Mixed

WHOLE_FROM = 0.75  # share of the epochs after which images are whole, so that the last ones see what the test shows
GRID = 8  # sides are multiples of it, or whole


def size_at(recipe: TrainRecipe, full: tuple[int, int], epoch: int) -> tuple[int, int]:
    """Height and width of the training images in an epoch.

    The share of the sides grows linearly from `start_scale` in the first epoch to 1 at three quarters of the epochs
    (Tan and Le, EfficientNetV2, ICML 2021, section 4.2: smaller images early; there in four steps, with regularization
    that grows, too, which is the recipe's to say here).

    Args:
        recipe: of the training stage.
        full: height and width of whole images.
        epoch: from 0.

    Returns:
        Height and width, each a multiple of 8 or whole.
    """
    grown = min(1.0, epoch / max(1.0, WHOLE_FROM * (recipe.epochs - 1)))
    share = recipe.start_scale + (1 - recipe.start_scale) * grown
    return _side(full[0], share), _side(full[1], share)


def resized(mixed: Mixed, size: tuple[int, int]) -> Mixed:
    """The batch with images of `size`, by bilinear interpolation with antialiasing; as it is where it has that size."""
    if mixed.images.shape[-2:] == size:
        return mixed
    return dataclasses.replace(mixed, images=F.interpolate(mixed.images, size, mode="bilinear", antialias=True))


def pixels_share(recipe: TrainRecipe, full: tuple[int, int]) -> float | None:
    """Pixels that the epochs of a stage train on over those of whole images; None where all images are whole."""
    if recipe.start_scale == 1 or not recipe.epochs:
        return None
    sizes = [size_at(recipe, full, epoch) for epoch in range(recipe.epochs)]
    return sum(height * width for height, width in sizes) / (recipe.epochs * full[0] * full[1])


@torch.no_grad()
def check_start(model: nn.Module, recipe: TrainRecipe, shape: tuple[int, int, int], name: str) -> None:
    """UserError for a network that can't take images of every size that the epochs of `recipe` have.

    Args:
        model: the network.
        recipe: of the training stage.
        shape: channels, height and width of whole images.
        name: of the model, for the message.

    Raises:
        UserError: with what the network said.
    """
    sizes = {size_at(recipe, shape[1:], epoch): epoch + 1 for epoch in reversed(range(recipe.epochs))}
    sizes.pop(shape[1:], None)
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for size, epoch in reversed(sizes.items()):
            try:
                model(torch.zeros(1, shape[0], *size, device=device))
            except Exception as error:
                why = first_line(error)
                raise UserError(
                    f"start_scale {recipe.start_scale:g}: {name} can't take images of {size[0]}x{size[1]}, which epoch "
                    f"{epoch} would have ({why}); leave start_scale out"
                ) from error
    finally:
        model.train(was_training)


def _side(full: int, share: float) -> int:
    return min(full, max(GRID, round(full * share / GRID) * GRID)) if share < 1 else full
