"""The base classes that every method extends: importance criteria and sparsity regularizers.

A criterion scores *one side of one layer* at a time (`layer_scores`). raybench adds those scores up per unit of a
group, reduces over the group's layers and normalises, as the criterion's class attributes say. A regularizer adds
its penalty's gradient after each backward pass of the sparsifying stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from raybench.groups.records import Group, Groups, Member
from raybench.methods.pairs import FilterDistances
from raybench.methods.records import Calibration, Layer, RefitProblem, has_filters

__all__ = [  # the names of `records`, too: methods import all that they need from here
    "Calibration",
    "ElementwiseImportance",
    "Importance",
    "Layer",
    "Need",
    "Needs",
    "PairwiseImportance",
    "RefitProblem",
    "Regularizer",
    "has_filters",
]

Need = Literal[
    "nothing",  # neither weights nor data: scored once
    "weights",  # scored again after every step of the pruning
    "gradients",  # and `Layer.gradient`
    "sample-gradients",  # and `Layer.gradient_square`
    "activations",  # `observe` reads the calibration images, then `layer_scores` reads `Layer.state`
]
Needs = Need | tuple[Need, ...]  # several of the last three; with activations and gradients `observe_gradient`, too


class Importance:
    """Base class of every importance criterion. Channels with high scores are kept.

    Subclasses are frozen dataclasses whose fields are the method's parameters. Class attributes are literals, read
    without importing the file.

    Attributes:
        needs: what raybench computes before scoring, or several kinds: ("activations", "gradients"). It also decides
            the schedule of `auto`: progressive for "nothing" and "weights", iterative for the others.
        labels: whose loss is differentiated: "true" labels, or labels "sampled" from the model's softmax.
        reduce: how the scores of a group's layers become one: "mean", "sum", "max", or "first" (the root layer's).
        normalize: how scores are scaled within a group, over the units left: "mean", "max", "sum", "lamp" or "none".
        min_images: fewer calibration images are an error; how many there are is set by the recipe.
        requires: "batch-norm" where models without it are a skipped row.
        neighbours: whether `Layer.before` and `Layer.after` are computed.
        reconstructs: whether the class defines `refit` and has the parameters `points` and `reconstruct`.
        refits_bias: whether the refit also moves the biases, by the difference of the mean outputs.
        version: increase it when the numbers change; it is part of trial_id.
        paper: authors, title, venue, equation.
        points: parameter of criteria that reconstruct: output locations sampled per image.
        reconstruct: parameter of criteria that reconstruct: whether layers are refitted after the cut.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class LargestWeight(Importance):
        ...     def layer_scores(self, layer: Layer) -> Tensor | None:
        ...         return layer.weight.abs().flatten(1).amax(1)
        >>> LargestWeight().layer_scores(Layer("fc", "linear", "out", weight=torch.tensor([[1.0, -2.0], [0.5, 0.0]])))
        tensor([2.0000, 0.5000])
    """

    needs: ClassVar[Needs] = "weights"
    labels: ClassVar[Literal["true", "sampled"]] = "true"
    reduce: ClassVar[Literal["mean", "sum", "max", "first"]] = "mean"
    normalize: ClassVar[Literal["mean", "max", "sum", "lamp", "none"]] = "mean"
    min_images: ClassVar[int] = 1
    requires: ClassVar[str | None] = None
    neighbours: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False
    refits_bias: ClassVar[bool] = False
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""
    if TYPE_CHECKING:  # of subclasses; declared here, they would be parameters of every criterion
        points: int
        reconstruct: bool

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """Score the channels of one side of one layer.

        Args:
            layer: the side to score. Its tensors share the model's memory and must not be changed.

        Returns:
            (channels,) non-negative, or None: this layer contributes no score.

        Raises:
            NotImplementedError: the subclass defines neither this nor `saliency`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define layer_scores(layer) or saliency(layer)")

    def watched(self, group: Group) -> tuple[Member, ...]:
        """Choose the members whose layers `observe` is called for, when `needs="activations"`.

        Args:
            group: channels of several layers that are removed together.

        Returns:
            Some of `group.members`; all of them by default.

        Raises:
            NotSupported: the group has nothing that this criterion can observe.
        """
        return group.members

    def observe(self, layer: Layer, inputs: Tensor, output: Tensor, state: Any) -> Any:
        """Fold one calibration batch into `state`, when `needs="activations"`: in eval mode, without gradients.

        Args:
            layer: one watched side of a layer.
            inputs: the layer's input, batch first.
            output: the layer's output, batch first.
            state: what this method returned for the batch before; None at first.

        Returns:
            The new state, which `layer_scores` finds in `layer.state`.
        """
        return state

    def observe_gradient(self, layer: Layer, output: Tensor, gradient: Tensor, state: Any) -> Any:
        """Fold one batch's gradients into `state`, when `needs` names activations and gradients; after `observe`.

        Args:
            layer: one watched side of a layer.
            output: the layer's output, batch first.
            gradient: like `output`, the derivative of each image's own loss.
            state: what `observe` returned for this batch.

        Returns:
            The new state.
        """
        return state

    def refit(self, problem: RefitProblem) -> Tensor:
        """Compute the new weight of a layer that reads pruned channels, after the cut, when `reconstructs`.

        Args:
            problem: the layer's inputs, weight and target outputs; its tensors must not be changed.

        Returns:
            (g, c, k, o), like `problem.weight`.
        """
        return problem.weight


class ElementwiseImportance(Importance):
    """A criterion that sums a saliency over a channel's weights.

    The progressive schedule computes the saliencies once and subtracts those of removed channels.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Capped(ElementwiseImportance):
        ...     cap: float = 0.1
        ...     def saliency(self, layer: Layer) -> Tensor:
        ...         return layer.weight.abs().clamp(max=self.cap)
        >>> layer = Layer("fc", "linear", "out", weight=torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
        >>> Capped(cap=1.0).layer_scores(layer)
        tensor([2.0000, 0.5000])
    """

    def saliency(self, layer: Layer) -> Tensor:
        """Score every weight of a layer.

        Args:
            layer: one side of a layer that has a weight.

        Returns:
            Non-negative, of `layer.weight`'s shape.

        Raises:
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define saliency(layer)")

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """Sum the saliencies over all dimensions but the channels'.

        Args:
            layer: the side to score.

        Returns:
            (channels,).
        """
        return self.saliency(layer).flatten(1).sum(1)


class PairwiseImportance(Importance):
    """A criterion that compares each filter with the layer's other filters, by their Euclidean distances.

    The progressive schedule computes the distances once and updates them as channels are removed.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Distances(PairwiseImportance):
        ...     def pair_value(self, squares: Tensor) -> Tensor:
        ...         return squares.sqrt()
        >>> Distances().layer_scores(Layer("fc", "linear", "out", weight=torch.tensor([[0.0, 0.0], [3.0, 4.0]])))
        tensor([5., 5.])
    """

    def pair_value(self, squares: Tensor) -> Tensor:
        """Map the squared distances of pairs to their values, element by element.

        Args:
            squares: float32, squared Euclidean distances, of any shape; may be changed in place.

        Returns:
            Of the same shape, non-negative; 0 at distance 0.

        Raises:
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define pair_value(squares)")

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """Sum over the layer's other filters.

        Args:
            layer: the side to score.

        Returns:
            (filters,); None for input sides and layers without filters.
        """
        if not has_filters(layer):
            return None
        return FilterDistances(layer.weight.flatten(1)).sums(self.pair_value).to(layer.weight.dtype)


class NeighbourImportance(Importance):
    """A criterion that sums a saliency over a filter's weights, each times the energies of what feeds and reads it.

    The progressive schedule computes the saliencies once; a step multiplies them with the energies as they are then.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Squares(NeighbourImportance):
        ...     neighbours = True
        ...     def saliency(self, layer: Layer) -> Tensor:
        ...         return layer.weight.square()
        >>> weight, before = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[10.0, 1.0]])
        >>> Squares().layer_scores(Layer("fc", "linear", "out", weight=weight, before=before))
        tensor([14., 90.])
    """

    def saliency(self, layer: Layer) -> Tensor:
        """Score every weight of a layer, whatever its neighbours are.

        Args:
            layer: the filters of a layer.

        Returns:
            Non-negative, of `layer.weight`'s shape.

        Raises:
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define saliency(layer)")

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """Sum over a filter of saliency x energy before its input x energy behind its output.

        Args:
            layer: the side to score.

        Returns:
            (filters,); None for input sides and layers without filters.
        """
        if not has_filters(layer):
            return None
        before, after = (1 if energy is None else energy for energy in (layer.before, layer.after))
        return (self.saliency(layer) * before * after).flatten(1).sum(1)


class Regularizer:
    """Base class of every sparsity regularizer. `bind` is called once, `add_gradients` after each backward pass.

    Subclasses are dataclasses whose fields are the method's parameters (`strength` first). What changes during
    training and must survive an interruption goes through `state_dict` and `load_state_dict`.

    Attributes:
        requires: "batch-norm" where models without it are a skipped row.
        version: increase it when the numbers change; it is part of trial_id.
        paper: authors, title, venue, equation.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class WeightDecay(Regularizer):
        ...     strength: float = 0.5
        ...     def bind(self, model: nn.Module, groups: Groups) -> None:
        ...         self.parameters = list(model.parameters())
        ...     def add_gradients(self) -> None:
        ...         for parameter in self.parameters:
        ...             parameter.grad.add_(parameter.detach(), alpha=self.strength)
        >>> model = nn.Linear(2, 1, bias=False)
        >>> model.weight.grad = torch.zeros(1, 2)
        >>> penalty = WeightDecay()
        >>> penalty.bind(model, Groups(()))
        >>> penalty.add_gradients()
        >>> torch.equal(model.weight.grad, 0.5 * model.weight)
        True
    """

    requires: ClassVar[str | None] = None
    capturable: ClassVar[bool] = False  # whether all steps of an epoch are alike, so that a CUDA graph can hold one
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    def bind(self, model: nn.Module, groups: Groups) -> None:
        """Remember the parameters that the penalty acts on; called once, before training.

        Args:
            model: the network, trained in place.
            groups: its prunable groups.

        Raises:
            NotSupported: the penalty has nothing to act on in this model.
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define bind(model, groups)")

    def add_gradients(self) -> None:
        """Add the penalty's gradient to `.grad` of the bound parameters; called between backward and step.

        Raises:
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define add_gradients()")

    def end_epoch(self) -> None:
        """Update the penalty after a sparsifying epoch; does nothing by default."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """State that must survive an interruption.

        Returns:
            Tensors by name; empty by default.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of an interrupted stage.

        Args:
            state: what `state_dict` returned.
        """
