"""What data-driven criteria look at, gathered in one pass over the calibration images for all groups.

The model runs in eval mode through `torch.func.functional_call`, so its parameters, `.grad`, buffers, train
flags and `requires_grad` are as before when `gather` returns, errors included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from raybench.errors import NotSupported, StageError, UserError
from raybench.methods.layers import view, weight_name
from raybench.methods.protocols import Calibration, Importance
from raybench.pipeline.records import Groups, Member, Side


@dataclass(frozen=True)
class Evidence:
    """What a criterion's `needs` asked for; the other fields are empty."""

    gradients: Mapping[str, Tensor] = field(default_factory=dict)  # parameter name -> dL/dw, L the mean loss
    gradient_squares: Mapping[str, Tensor] = field(default_factory=dict)  # parameter name -> mean_i (dL_i/dw)^2
    states: Mapping[tuple[str, Side], Any] = field(default_factory=dict)  # (layer, side) -> what `observe` gathered
    seconds: float = 0.0


@dataclass(frozen=True)
class Batch:
    """One calibration batch on the model's device, with the share of all images that it holds."""

    images: Tensor
    labels: Tensor
    share: float

    def only(self, i: int) -> Batch:
        """Image `i` alone."""
        return replace(self, images=self.images[i : i + 1], labels=self.labels[i : i + 1])


def gather(criterion: Importance, model: nn.Module, groups: Groups, calibration: Calibration | None) -> Evidence:
    """Everything that `criterion` declares to need, over all of `calibration`'s images.

    UserError when there are fewer images than the criterion can do with; StageError naming the layer when an
    activation or a gradient isn't finite.
    """
    from raybench.methods.evidence_squares import gradient_squares

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
            f"{name} needs at least {criterion.min_images} calibration images; there are {len(calibration.images)}"
        )
    began = time.perf_counter()
    with evaluating(model), finite_outputs(model):
        found = passes[criterion.needs](model, groups, Labels(criterion.labels, calibration), calibration)
    return Evidence(**found, seconds=time.perf_counter() - began)


def gradients(model: nn.Module, groups: Groups, labels: Labels, calibration: Calibration) -> dict[str, Tensor]:
    """dL/dw of every member's parameter; L is the mean loss over all calibration images."""
    names = members_by_parameter(groups)
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
    """(layer, side) -> what `criterion.observe` made of every calibration batch; each layer is hooked once."""
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


class Labels:
    """Whose loss is differentiated: the true labels', or that of labels drawn from the model's own softmax.

    The draw starts from the state of the calibration's generator and leaves that generator alone, so gathering
    twice gives the same numbers; it is made on the CPU, so every device draws the same labels.
    """

    def __init__(self, kind: str, calibration: Calibration) -> None:
        self.kind, self._true_loss = kind, calibration.loss or F.cross_entropy
        self._generator = torch.Generator().manual_seed(0)
        if calibration.generator is not None:
            self._generator.set_state(calibration.generator.get_state())

    def choose(self, output: Tensor, batch: Batch) -> Batch:
        """`batch` with the labels whose loss is meant. NotSupported when labels can't be drawn from the output."""
        if self.kind == "true":
            return batch
        if not isinstance(output, Tensor) or output.dim() != 2:
            raise NotSupported("labels can only be sampled from class scores of shape (images, classes)")
        drawn = torch.multinomial(output.detach().double().softmax(1).cpu(), 1, generator=self._generator).squeeze(1)
        return replace(batch, labels=drawn.to(output.device))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar."""
        return self._true_loss(output, batch.labels) if self.kind == "true" else F.cross_entropy(output, batch.labels)


def batches(model: nn.Module, calibration: Calibration) -> Iterator[Batch]:
    """The calibration images in order, `batch_size` at a time, on the device of `model`."""
    device, n = next(model.parameters()).device, len(calibration.images)
    for start in range(0, n, calibration.batch_size):
        images = calibration.images[start : start + calibration.batch_size].to(device)
        labels = calibration.labels[start : start + calibration.batch_size].to(device)
        yield Batch(images, labels, len(images) / n)


def members_by_parameter(groups: Groups) -> dict[str, Member]:
    """Parameter name -> one member that holds it, in group order. Bare parameters have no say in any score."""
    return {weight_name(m): m for group in groups for m in group.members if m.kind != "parameter"}


def check_finite(found: dict[str, Tensor], what: str, names: Mapping[str, Member]) -> dict[str, Tensor]:
    """`found` itself; StageError names the last layer (nearest to the loss) whose values aren't finite."""
    broken = [name for name, value in found.items() if not bool(value.isfinite().all())]
    if broken:
        raise StageError("select", f"{what} of layer {names[broken[-1]].layer!r} has NaN or infinite values")
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode; every module's own train flag is put back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def finite_outputs(model: nn.Module, stage: str = "select") -> Iterator[None]:
    """StageError of `stage` that names the first layer whose output isn't finite."""

    def hook(name: str) -> Callable[..., None]:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(output.detach().isfinite().all()):
                raise StageError(stage, f"activations of layer {name!r} have NaN or infinite values")

        return check

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
