"""What a method is. Everything a method may look at is handed to it; it reaches for nothing.

An importance criterion scores *one side of one layer* at a time (`layer_scores`); raybench scatters those
scores to the group's units, reduces over the group's layers and normalises, as the criterion's class
attributes say. A regularizer adds its penalty's gradient after each backward pass of the sparsifying stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from raybench.methods.pairs import FilterDistances
from raybench.pipeline.records import Group, Groups, Kind, Member, Side

Needs = Literal["nothing", "weights", "gradients", "sample-gradients", "activations"]


@dataclass(frozen=True)
class Layer:
    """One side of one layer, arranged so that dimension 0 of every tensor runs over that side's channels.

    For `side="in"` of a convolution `weight` is transposed to (in, out, kh, kw). Where channels were already
    removed on paper, the *other* dimension holds only what is left.
    """

    name: str
    kind: Kind
    side: Side
    weight: Tensor | None  # (channels, ...); None for a layer without one
    bias: Tensor | None = None  # (channels,); only on the out side
    gradient: Tensor | None = None  # like weight: dL/dw of the mean loss; needs="gradients"
    gradient_square: Tensor | None = None  # like weight: mean over samples of (dL_i/dw)^2; needs="sample-gradients"
    state: Any = None  # what `observe` gathered; needs="activations"
    module: nn.Module | None = None
    unit: Tensor | None = None  # (channels,) int64: which unit of the group each channel belongs to, -1 for none
    seed: int = 0  # of the trial; the only source of randomness that a criterion may use


@dataclass(frozen=True)
class Reading:
    """A layer that reads pruned channels: what it gets now at sampled points, and what the uncut layer gave there.

    g convolution groups (1 for most layers) of c channels that are left and o outputs that are left, k kernel taps.
    All float64. The uncut layer's outputs are taken without the bias.
    """

    name: str
    inputs: Tensor  # (g, points, c, k), from the pruned network: what was refitted before this layer is in it
    weight: Tensor  # (g, c, k, o), of the kept channels
    target: Tensor  # (g, points, o)


class Importance:
    """Base class of every criterion: high scores stay. Subclasses are frozen dataclasses; fields are parameters.

    Class attributes are data, read without importing the file: `needs` decides what raybench computes before
    scoring and which schedule `auto` picks (weights: progressive; data: iterative).
    """

    needs: ClassVar[Needs] = "weights"
    labels: ClassVar[Literal["true", "sampled"]] = "true"  # whose loss the gradients come from
    reduce: ClassVar[Literal["mean", "sum", "max", "first"]] = "mean"  # over the layers of a group
    normalize: ClassVar[Literal["mean", "max", "sum", "lamp", "none"]] = "mean"  # within a group, over kept units
    min_images: ClassVar[int] = 1  # fewer calibration images are an error; how many there are is the recipe's
    requires: ClassVar[str | None] = None  # "batch-norm": models without it are a skipped row
    reconstructs: ClassVar[bool] = False  # has `refit`, and parameters `points` an image and `reconstruct`
    version: ClassVar[int] = 1  # raise when the numbers change: it is in trial_id
    paper: ClassVar[str] = ""

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """Score of each channel of `layer`'s side, shape (channels,), non-negative; None: this layer has no say."""
        raise NotImplementedError(f"{type(self).__name__} must define layer_scores(layer) or saliency(layer)")

    def watched(self, group: Group) -> tuple[Member, ...]:
        """The members that `observe` wants to see; every member unless the criterion says otherwise."""
        return group.members

    def observe(self, layer: Layer, inputs: Tensor, output: Tensor, state: Any) -> Any:
        """Fold one calibration batch into `state` (None at first), in eval mode, without gradients.

        Called once for every watched layer and side when `needs="activations"`. `inputs` and `output` are the
        layer's own, batch first."""
        return state

    def refit(self, reading: Reading) -> Tensor:
        """New weight, (g, c, k, o), of a layer that reads pruned channels; called after the cut when `reconstructs`."""
        return reading.weight


class ElementwiseImportance(Importance):
    """A criterion that is a sum over weights: scores are sums of a per-weight saliency.

    The progressive schedule re-scores these from (out x in) matrices reduced once, which is what makes it fast.
    """

    def saliency(self, layer: Layer) -> Tensor:
        """Non-negative saliency of every weight, shape of `layer.weight`."""
        raise NotImplementedError(f"{type(self).__name__} must define saliency(layer)")

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """Sum of saliencies over everything but the channel."""
        return None if layer.weight is None else self.saliency(layer).flatten(1).sum(1)


class PairwiseImportance(Importance):
    """A criterion that compares the filters of a layer pair by pair: scores are sums over a filter's pairs.

    The progressive schedule follows the filters' distances while channels go, which is what makes it fast.
    """

    def pair_value(self, squares: Tensor) -> Tensor:
        """What pairs are worth, element by element, from their squared Euclidean distances; 0 at distance 0.

        Float32, non-negative; may work in place."""
        raise NotImplementedError(f"{type(self).__name__} must define pair_value(squares)")

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """Sum over the layer's other filters; None for input sides and for layers without filters."""
        if not has_filters(layer):
            return None
        return FilterDistances(layer.weight.flatten(1)).sums(self.pair_value).to(layer.weight.dtype)


def has_filters(layer: Layer | Member) -> bool:
    """Whether this side's channels are filters: of a convolution (a depthwise one too), or rows of a linear layer."""
    return layer.side == "out" and layer.kind in ("conv", "linear", "depthwise")


class Regularizer:
    """Base class of every sparsity regularizer. `bind` once, `add_gradients` after each backward pass.

    Subclasses are dataclasses whose fields are parameters (`strength` first). What changes while training and
    must survive a kill goes through `state_dict` / `load_state_dict`.
    """

    requires: ClassVar[str | None] = None
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    def bind(self, model: nn.Module, groups: Groups) -> None:
        """Remember the parameters that the penalty acts on. `model` keeps training in place."""
        raise NotImplementedError(f"{type(self).__name__} must define bind(model, groups)")

    def add_gradients(self) -> None:
        """Add the penalty's gradient to `.grad` of the bound parameters (called between backward and step)."""
        raise NotImplementedError(f"{type(self).__name__} must define add_gradients()")

    def end_epoch(self) -> None:
        """Called after each sparsifying epoch; most penalties have nothing to do."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """What must survive a kill, as tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the state of an interrupted stage."""


@dataclass(frozen=True)
class Calibration:
    """The images that a data-driven criterion may look at: fixed by the seed, already normalised."""

    images: Tensor  # (n, channels, height, width) float32
    labels: Tensor  # (n,) int64
    batch_size: int
    loss: Any = None  # callable(model output, labels) -> mean loss; cross-entropy unless the task says otherwise
    generator: torch.Generator | None = None  # for sampled labels
