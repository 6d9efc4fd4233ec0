"""What training minimises: cross-entropy with smoothed or mixed labels, and the dense network's soft targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.spec.trial import TrainRecipe
from raybench.tasks.training.mix import Mixed

TEMPERATURE = 4.0  # of distillation; Hinton et al. 2015 find 2.5 to 10 alike on small nets, 4 is the usual choice


def training_loss(outputs: Tensor, mixed: Mixed, recipe: TrainRecipe, teacher: nn.Module | None) -> Tensor:
    """Mean loss of a batch: (1 - distill) * cross-entropy + distill * T^2 KL(teacher || student).

    Mixed labels enter as lam * CE(a) + (1 - lam) * CE(b), which is the cross-entropy with the mixed target.
    """
    smoothing = recipe.label_smoothing
    loss = F.cross_entropy(outputs, mixed.labels, label_smoothing=smoothing)
    if mixed.share < 1:
        other = F.cross_entropy(outputs, mixed.others, label_smoothing=smoothing)
        loss = mixed.share * loss + (1 - mixed.share) * other
    if teacher is not None and recipe.distill:
        with torch.no_grad():
            targets = F.log_softmax(teacher(mixed.images) / TEMPERATURE, 1)
        soft = F.kl_div(F.log_softmax(outputs / TEMPERATURE, 1), targets, reduction="batchmean", log_target=True)
        loss = (1 - recipe.distill) * loss + recipe.distill * TEMPERATURE**2 * soft
    return loss
