"""Computes what a criterion needs from the calibration images, in one pass for all groups."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raybench.catalogue import evidence_kinds, needs_images
from raybench.errors import UserError, counted
from raybench.groups.hooks import hooked
from raybench.groups.records import Groups
from raybench.methods.layers import Evidence, view
from raybench.methods.protocols import Calibration, Importance, Layer
from raybench.models.strided import strided_in_nchw
from raybench.scoring.evidence import (
    Labels,
    batches,
    check_finite,
    evaluating,
    finite_outputs,
    members_by_parameter,
)
from raybench.scoring.neighbours import Energies
from raybench.scoring.recompute import NO_WEIGHTS, Key
from raybench.scoring.sample_gradients import gradient_squares


def gather(criterion: Importance, model: nn.Module, groups: Groups, calibration: Calibration | None) -> Evidence:
    """Compute what `criterion.needs` declares, over all of `calibration`'s images.

    Raises:
        UserError: there are fewer images than `criterion.min_images`, or none.
        StageError: an activation or a gradient isn't finite; names the layer.
    """
    kinds = evidence_kinds(criterion.needs)
    passes: dict[str, Callable[..., dict[str, Any]]] = {
        "gradients": lambda *a: {"gradients": gradients(*a)},
        "sample-gradients": lambda *a: {"gradient_squares": gradient_squares(*a)},
        "activations": lambda *a: {"states": activations(criterion, *a)},
    }
    if "gradients" in kinds:
        passes["activations"] = lambda *a: {"states": activation_gradients(criterion, *a)}
    if not needs_images(criterion.needs):
        return _around(criterion, model, groups)
    name = type(criterion).__name__
    if calibration is None:
        raise UserError(f"{name} needs {' and '.join(kinds)}, but there are no calibration images")
    if len(calibration.images) < criterion.min_images:
        raise UserError(
            f"{name} needs at least {counted(criterion.min_images, 'calibration image')}; "
            f"there are {len(calibration.images)}"
        )
    began = time.perf_counter()
    found: dict[str, Any] = {}
    with evaluating(model), finite_outputs(model), strided_in_nchw(model):
        for kind in kinds:  # each pass draws the same labels
            found |= passes[kind](model, groups, Labels(criterion.labels, calibration), calibration)
    return replace(_around(criterion, model, groups), **found, seconds=time.perf_counter() - began)


def _around(criterion: Importance, model: nn.Module, groups: Groups) -> Evidence:
    """The energies around each layer, where the criterion looks at them once; others follow removals in the scorer."""
    if not criterion.neighbours or NO_WEIGHTS.isdisjoint(evidence_kinds(criterion.needs)):
        return Evidence()
    found = Energies(model, groups).around()
    return Evidence(before=found.before, after=found.after)


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
) -> dict[Key, Any]:
    """(layer, side) -> what `criterion.observe` returned after the last batch; each layer is hooked once."""
    layers, sides = _watched(criterion, model, groups)
    states: dict[Key, Any] = dict.fromkeys(layers)

    def hook(keys: list[Key]) -> Callable[..., None]:
        def observe(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            for key in keys:
                states[key] = criterion.observe(layers[key], inputs[0].detach(), output.detach(), states[key])

        return observe

    handles = [model.get_submodule(name).register_forward_hook(hook(keys)) for name, keys in sides.items()]
    with hooked(handles), torch.no_grad():
        for batch in batches(model, calibration):
            model(batch.images)
    return states


def activation_gradients(
    criterion: Importance, model: nn.Module, groups: Groups, labels: Labels, calibration: Calibration
) -> dict[Key, Any]:
    """(layer, side) -> the state after `observe` and `observe_gradient` of the last batch.

    Gradients are those of each image's own loss: in eval mode images don't interact, so the rows of the gradient of the
    summed loss are the images' gradients.
    """
    layers, sides = _watched(criterion, model, groups)
    states: dict[Key, Any] = dict.fromkeys(layers)
    seen: list[tuple[str, Tensor, list[Tensor]]] = []  # layer, its output, its output's gradient once it is there

    def watch(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        for key in sides[name]:
            states[key] = criterion.observe(layers[key], inputs[0].detach(), output.detach(), states[key])
        gradient: list[Tensor] = []
        output.register_hook(gradient.append)
        seen.append((name, output.detach().clone(), gradient))  # a copy: an activation may work in place

    handles = [model.get_submodule(name).register_forward_hook(partial(watch, name)) for name in sides]
    with hooked(handles):
        for batch in batches(model, calibration):
            seen.clear()
            with torch.enable_grad():
                images = batch.images.detach().requires_grad_()
                output = model(images)
                loss = labels.loss(output, labels.choose(output, batch)) * len(images)
            torch.autograd.grad(loss, images)
            for name, values, gradient in seen:
                for key in sides[name] if gradient else ():
                    states[key] = criterion.observe_gradient(layers[key], values, gradient[0].detach(), states[key])
    return states


def _watched(criterion: Importance, model: nn.Module, groups: Groups) -> tuple[dict[Key, Layer], dict[str, list[Key]]]:
    """The watched sides as layers, and the sides of each layer by its name."""
    watched = {(m.layer, m.side): m for group in groups for m in criterion.watched(group) if m.kind != "parameter"}
    sides: dict[str, list[Key]] = {}
    for key in watched:
        sides.setdefault(key[0], []).append(key)
    return {key: view(model, member) for key, member in watched.items()}, sides
