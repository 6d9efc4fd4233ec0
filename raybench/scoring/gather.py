"""Computes what a criterion needs from the calibration images, in one pass for all groups."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raybench.errors import UserError, counted
from raybench.groups.records import Groups, Side
from raybench.methods.layers import Evidence, view
from raybench.methods.protocols import Calibration, Importance
from raybench.models.strided import strided_in_nchw
from raybench.scoring.evidence import (
    Labels,
    batches,
    check_finite,
    evaluating,
    finite_outputs,
    members_by_parameter,
)
from raybench.scoring.sample_gradients import gradient_squares


def gather(criterion: Importance, model: nn.Module, groups: Groups, calibration: Calibration | None) -> Evidence:
    """Compute what `criterion.needs` declares, over all of `calibration`'s images.

    Raises:
        UserError: there are fewer images than `criterion.min_images`, or none.
        StageError: an activation or a gradient isn't finite; names the layer.
    """
    passes: dict[str, Callable[..., dict[str, Any]]] = {
        "gradients": lambda *a: {"gradients": gradients(*a)},
        "sample-gradients": lambda *a: {"gradient_squares": gradient_squares(*a)},
        "activations": lambda *a: {"states": activations(criterion, *a)},
    }
    if criterion.needs not in passes:
        return Evidence()
    name = type(criterion).__name__
    if calibration is None:
        raise UserError(f"{name} needs {criterion.needs}, but there are no calibration images")
    if len(calibration.images) < criterion.min_images:
        raise UserError(
            f"{name} needs at least {counted(criterion.min_images, 'calibration image')}; "
            f"there are {len(calibration.images)}"
        )
    began = time.perf_counter()
    with evaluating(model), finite_outputs(model), strided_in_nchw(model):
        found = passes[criterion.needs](model, groups, Labels(criterion.labels, calibration), calibration)
    return Evidence(**found, seconds=time.perf_counter() - began)


def gradients(model: nn.Module, groups: Groups, labels: Labels, calibration: Calibration) -> dict[str, Tensor]:
    """Weight name -> dL/dw; L is the mean loss over all calibration images."""
    names = members_by_parameter(model, groups)
    total: dict[str, Tensor] = {}
    for batch in batches(model, calibration):
        leaves = {name: model.get_parameter(name).detach().requires_grad_() for name in names}
        with torch.enable_grad():
            output = functional_call(model, leaves, (batch.images,))
            loss = labels.loss(output, labels.choose(output, batch)) * batch.share
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, found, strict=True):
            if gradient is not None:
                total[name] = total[name] + gradient if name in total else gradient
    return check_finite(total, "gradient", names)


def activations(
    criterion: Importance, model: nn.Module, groups: Groups, labels: Labels, calibration: Calibration
) -> dict[tuple[str, Side], Any]:
    """(layer, side) -> what `criterion.observe` returned after the last batch; each layer is hooked once."""
    watched = {(m.layer, m.side): m for group in groups for m in criterion.watched(group) if m.kind != "parameter"}
    states: dict[tuple[str, Side], Any] = dict.fromkeys(watched)
    layers = {key: view(model, member) for key, member in watched.items()}
    sides: dict[str, list[tuple[str, Side]]] = {}
    for key in watched:
        sides.setdefault(key[0], []).append(key)

    def hook(keys: list[tuple[str, Side]]) -> Callable[..., None]:
        def observe(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            for key in keys:
                states[key] = criterion.observe(layers[key], inputs[0].detach(), output.detach(), states[key])

        return observe

    handles = [model.get_submodule(name).register_forward_hook(hook(keys)) for name, keys in sides.items()]
    try:
        with torch.no_grad():
            for batch in batches(model, calibration):
                model(batch.images)
    finally:
        for handle in handles:
            handle.remove()
    return states
