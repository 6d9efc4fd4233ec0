"""Mean of squared per-sample gradients, the diagonal of the empirical Fisher matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raybench.methods.evidence import Batch, Labels, batches, check_finite, members_by_parameter
from raybench.methods.protocols import Calibration
from raybench.pipeline.records import Groups


def gradient_squares(model: nn.Module, groups: Groups, labels: Labels, calibration: Calibration) -> dict[str, Tensor]:
    """mean_i (dL_i/dw)^2 of every member's parameter; L_i is the loss of image i alone."""
    names = members_by_parameter(groups)
    total: dict[str, Tensor] = {}
    for batch in batches(model, calibration):
        for i in range(len(batch.images)):
            one = Batch(batch.images[i : i + 1], batch.labels[i : i + 1], 1 / len(calibration.images))
            leaves = {name: model.get_parameter(name).detach().requires_grad_() for name in names}
            with torch.enable_grad():
                loss = labels.loss(functional_call(model, leaves, (one.images,)), one)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            for name, gradient in zip(leaves, found, strict=True):
                if gradient is not None:
                    square = gradient.square() * one.share
                    total[name] = total[name] + square if name in total else square
    return check_finite(total, "gradient", names)
