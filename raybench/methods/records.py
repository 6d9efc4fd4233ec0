"""What methods are given: one side of one layer, calibration images, and the least squares problem of a refit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raybench.groups.records import LayerKind, Member, Side


@dataclass(frozen=True)
class Layer:
    """One side of one layer, arranged so that dimension 0 of every tensor runs over that side's channels.

    For `side="in"` of a convolution `weight` is transposed to (in, out, kh, kw). Where channels were already removed,
    the *other* dimension holds only those that are left.

    Attributes:
        name: qualified name of the module, or of the parameter for `kind="parameter"`.
        kind: conv, linear, depthwise, norm, parameter or embedding.
        side: "out" or "in"; norms, depthwise convolutions and bare parameters are "out".
        weight: (channels, ...); (channels, 0) for a norm without one, which needs "nothing" or "activations".
        bias: (channels,), only on the out side; None for a layer without one.
        gradient: like `weight`, dL/dw of the mean loss; None if it isn't needed, or the loss doesn't depend on it.
        gradient_square: like `weight`, mean over samples of (dL_i/dw)^2; None as above ("sample-gradients").
        state: what `observe` returned last; None unless `needs="activations"`.
        before: energy of what feeds each weight's input, after: of what reads its output. Both broadcast against
            `weight`; None for norms, and unless the criterion says `neighbours = True`.
        module: the module; None for a bare parameter.
        unit: (channels,) int64, the group's unit that each channel belongs to, -1 for channels of other groups; None:
            every channel is a unit of its own.
        seed: of the trial; the only source of randomness that a criterion may use.

    Example:
        >>> layer = Layer("conv", "conv", "out", weight=torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
        >>> layer.weight.abs().sum(1)
        tensor([3.0000, 0.5000])
    """

    name: str
    kind: LayerKind
    side: Side
    weight: Tensor
    bias: Tensor | None = None
    gradient: Tensor | None = None
    gradient_square: Tensor | None = None
    state: Any = None
    before: Tensor | None = None
    after: Tensor | None = None
    module: nn.Module | None = None
    unit: Tensor | None = None
    seed: int = 0


@dataclass(frozen=True)
class RefitProblem:
    """A layer that reads pruned channels: its inputs now at sampled points, and the uncut layer's outputs there.

    All tensors are float64. g: convolution groups (1 for most layers); c: input channels left; o: outputs left;
    k: kernel taps.

    Attributes:
        name: qualified name of the layer.
        inputs: (g, points, c, k), from the pruned network, in which the layers before this one are refitted already.
        weight: (g, c, k, o), of the channels that are left.
        target: (g, points, o), the uncut layer's outputs without the bias.

    Example:
        >>> problem = RefitProblem("fc", torch.ones(1, 5, 2, 1), torch.ones(1, 2, 1, 3), torch.full((1, 5, 3), 4.0))
        >>> (problem.inputs.flatten(2) @ problem.weight.flatten(1, 2)).shape == problem.target.shape
        True
    """

    name: str
    inputs: Tensor
    weight: Tensor
    target: Tensor


def has_filters(layer: Layer | Member) -> bool:
    """Check whether this side's channels are filters.

    Args:
        layer: one side of a layer.

    Returns:
        True for the output side of a convolution (a depthwise one too) or of a linear layer, whose rows are filters.

    Example:
        >>> has_filters(Layer("bn", "norm", "out", weight=torch.ones(2, 1)))
        False
    """
    return layer.side == "out" and layer.kind in ("conv", "linear", "depthwise")


@dataclass(frozen=True)
class Calibration:
    """The images that a data-driven criterion is computed on: fixed by the seed, already normalised.

    Attributes:
        images: (n, channels, height, width) float32.
        labels: (n,) int64.
        batch_size: images per forward pass.
        loss: (model output, labels) -> mean loss; None: cross-entropy.
        generator: for sampled labels; its state is read, never advanced.

    Example:
        >>> calibration = Calibration(torch.zeros(12, 3, 8, 8), torch.zeros(12, dtype=torch.int64), batch_size=4)
        >>> len(calibration.images)
        12
    """

    images: Tensor
    labels: Tensor
    batch_size: int
    loss: Callable[[Any, Tensor], Tensor] | None = None
    generator: torch.Generator | None = None
