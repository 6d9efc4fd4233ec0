"""Calibration batches, label sampling and checks for the passes that data-driven criteria need.

The model runs in eval mode through `torch.func.functional_call`, so its parameters, `.grad`, buffers, train
flags and `requires_grad` are unchanged when `gather` returns or raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench.errors import NotSupported, StageError
from raybench.groups.hooks import hooked
from raybench.groups.records import Groups, Member
from raybench.groups.restored import modes_restored
from raybench.methods.layers import weight_name, weight_of
from raybench.methods.protocols import Calibration
from raybench.pauses import pause


@dataclass(frozen=True)
class Batch:
    """One calibration batch on the model's device; `share`: its part of all calibration images."""

    images: Tensor
    labels: Tensor
    share: float

    def only(self, i: int) -> Batch:
        """Image `i` alone."""
        return replace(self, images=self.images[i : i + 1], labels=self.labels[i : i + 1])


class Labels:
    """The labels of the loss that is differentiated: the true ones, or labels drawn from the model's softmax.

    The draw starts from a copy of the calibration generator's state, so gathering twice gives the same numbers. It is
    made on the CPU, so every device draws the same labels.
    """

    def __init__(self, kind: str, calibration: Calibration) -> None:
        self.kind, self._true_loss = kind, calibration.loss or F.cross_entropy
        self._generator = torch.Generator().manual_seed(0)
        if calibration.generator is not None:
            self._generator.set_state(calibration.generator.get_state())

    def choose(self, output: Tensor, batch: Batch) -> Batch:
        """`batch` with the labels to use. NotSupported when labels can't be drawn from `output`."""
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
        pause()


def members_by_parameter(model: nn.Module, groups: Groups) -> dict[str, Member]:
    """Weight name -> one member of that layer, in group order; without bare parameters, which aren't scored."""
    members = (m for group in groups for m in group.members if m.kind != "parameter")
    return {weight_name(m): m for m in members if weight_of(model, m) is not None}


def check_finite(found: dict[str, Tensor], what: str, names: Mapping[str, Member]) -> dict[str, Tensor]:
    """Return `found`, or raise StageError naming the last layer (nearest to the loss) whose values aren't finite."""
    broken = [name for name, value in found.items() if not finite(value)]
    if broken:
        raise StageError("select", f"{what} of layer {names[broken[-1]].layer!r} has NaN or infinite values")
    return found


def finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite: each is looked at only where their sum, which may overflow, isn't finite."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, `model` is in eval mode; every module's train flag is restored afterwards."""
    with modes_restored(model):
        model.eval()
        yield


@contextmanager
def finite_outputs(model: nn.Module, stage: str = "select") -> Iterator[None]:
    """Inside, raise StageError of `stage` when an output isn't finite; names the first such layer."""

    def hook(name: str) -> Callable[..., None]:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not finite(output.detach()):
                raise StageError(stage, f"activations of layer {name!r} have NaN or infinite values")

        return check

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    with hooked(module.register_forward_hook(hook(name)) for name, module in leaves):
        yield
