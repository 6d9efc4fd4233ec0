"""Classification loss: cross-entropy with smoothed or mixed labels, and distillation from the dense network."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.mix import Mixed

TEMPERATURE = 4.0  # of distillation; 2.5 to 10 work alike on small nets (Hinton et al. 2015), 4 is the usual choice


@runtime_checkable
class Learner(Protocol):
    """A network that adds a loss of its own to the training loss, if it `learns`."""

    @property
    def learns(self) -> bool:
        """Whether it has such a loss."""

    def extra_loss(self, outputs: Tensor, images: Tensor, teacher: nn.Module) -> Tensor:
        """The loss for the pass that has just given `outputs`; `teacher` is the whole network."""


def needs_teacher(model: nn.Module) -> bool:
    """Whether `model` has a loss of its own, for which it needs the whole network as a teacher."""
    return isinstance(model, Learner) and model.learns


def own_loss(model: nn.Module, outputs: Tensor, images: Tensor, teacher: nn.Module | None) -> Tensor | float:
    """What the network itself adds to the training loss; 0 for most."""
    if not isinstance(model, Learner) or not model.learns:
        return 0.0
    assert teacher is not None  # `needs_teacher` asked for one
    return model.extra_loss(outputs, images, teacher)


def training_loss(outputs: Tensor, mixed: Mixed, recipe: TrainRecipe, teacher: nn.Module | None) -> Tensor:
    """Mean loss of a batch: (1 - distill) * cross-entropy + distill * T^2 KL(teacher || student).

    With mixed labels CE is share * CE(labels) + (1 - share) * CE(others), the cross-entropy with the mixed target.
    """
    smoothing = recipe.label_smoothing
    loss = F.cross_entropy(outputs, mixed.labels, label_smoothing=smoothing)
    if isinstance(mixed.share, Tensor) or mixed.share < 1:  # a graph can't hold a question about a tensor's value
        other = F.cross_entropy(outputs, mixed.others, label_smoothing=smoothing)
        loss = mixed.share * loss + (1 - mixed.share) * other
    if teacher is not None and recipe.distill:
        with torch.no_grad():
            targets = F.log_softmax(teacher(mixed.images) / TEMPERATURE, 1)
        soft = F.kl_div(F.log_softmax(outputs / TEMPERATURE, 1), targets, reduction="batchmean", log_target=True)
        loss = (1 - recipe.distill) * loss + recipe.distill * TEMPERATURE**2 * soft
    return loss
