"""Between cut and fine-tuning: statistics of batch norms measured anew on training images, if the recipe says so."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task
from raybench.tasks.training.computing import exact


def recalibrate(trial: Trial, model: nn.Module, task: Task) -> Mapping[str, float] | None:
    """Measure the statistics of the batch norms of a pruned network anew, and evaluate it.

    A cut changes what arrives at a norm, and the dense network's mean and variance no longer fit. Measuring them anew
    needs no gradients and often brings back points that fine-tuning would have to (Li et al., EagleEye, ECCV 2020,
    section 3.3).

    Args:
        trial: its recipe says how many images; they are drawn by its seed.
        model: the pruned network; its batch norms are changed.
        task: gives the images and evaluates.

    Returns:
        Metrics on the test split; None where the recipe wants no images or the network has no statistics.
    """
    recipe = trial.recipe
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not recipe.recalibration_images or not norms:
        return None
    images = task.calibration(recipe.recalibration_images, recipe.calibration_batch, trial.seed).images
    with exact(images.device):
        measure_norms(model, norms, _full(images.split(recipe.calibration_batch)))
    return task.evaluate(model, "test")


@torch.no_grad()
def measure_norms(model: nn.Module, norms: list[_BatchNorm], batches: list[Tensor]) -> None:
    """Set the statistics of `norms` to the mean over `batches`; nothing else of `model` changes, dropout is off."""
    before = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        for batch in batches:
            model(batch)
    finally:
        model.eval()
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def _full(batches: tuple[Tensor, ...]) -> list[Tensor]:
    """Without a last batch that is smaller: each batch counts the same."""
    return [batch for batch in batches if len(batch) == len(batches[0])]
