"""The base class of trained selections, which learn the channels to keep, and the budget that they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from raybench.groups.records import Groups
from raybench.methods.protocols import Regularizer

Kept = Mapping[str, np.ndarray]  # group name -> units that stay, ascending; groups that it doesn't name stay whole
Scores = Mapping[str, np.ndarray]  # group name -> (units,) scores; groups that it doesn't name are not to be cut


@dataclass(frozen=True)
class Budget:
    """What a trained selection may spend: the asked speed-up, and the exact cost of every cut.

    Attributes:
        groups: the network's prunable groups.
        speedup: base MACs / MACs to reach.
        sizes: (groups,) int64, units of each group.
        least: (groups,) int64, units that each group keeps at least under the cell's strategy.
        macs: kept units of every group, (..., groups), whole or not -> MACs of an image, (...,).
        choose: scores -> kept units, such that the speed-up is met as exactly as single units allow. The lowest scores
            go first, ranked as the cell's strategy says (over all groups, or within each). Groups that the scores don't
            name stay whole, and are not in the result.
        example: a black image as the network takes it, (1, channels, height, width), on the network's device.
        seed: of the trial; the only source of randomness that a selection may use.
        epochs: of the training; 0 where it isn't known.

    Example:
        >>> import torch
        >>> one = np.array([4])
        >>> budget = Budget(Groups(()), 2.0, one, one, lambda kept: 10.0 * kept[..., 0], dict, torch.zeros(1, 3, 8, 8))
        >>> (budget.goal, budget.slopes(np.array([2.0])))
        (20.0, array([10.]))
    """

    groups: Groups
    speedup: float
    sizes: np.ndarray
    least: np.ndarray
    macs: Callable[[np.ndarray], np.ndarray]
    choose: Callable[[Scores], Kept]
    example: Tensor = field(repr=False)
    seed: int = 0
    epochs: int = 0

    @property
    def goal(self) -> float:
        """MACs that the speed-up allows."""
        return float(self.macs(self.sizes)) / self.speedup

    def slopes(self, kept: np.ndarray) -> np.ndarray:
        """Derivatives of the MACs.

        Args:
            kept: (groups,) units of every group, whole or not.

        Returns:
            (groups,) MACs that one more unit costs; exact, as MACs are quadratic in each group's units.
        """
        half = np.eye(len(kept)) / 2
        return np.asarray(self.macs(kept + half) - self.macs(kept - half))


class TrainedSelection(Regularizer):
    """Base class of every selection that is trained: the sparsifying stage both trains the network and picks channels.

    `attach` is called once, before training. After each backward pass come `observe` (in classification) and
    `add_gradients`, after each epoch `end_epoch`. At the end `kept` says which units stay, and `fold` removes what
    `attach` put into the network. Subclasses are dataclasses whose fields are the method's parameters. What changes
    during training and must survive an interruption is a parameter or buffer of the wrapped network, or goes through
    `state_dict` and `load_state_dict`.

    Each speed-up is trained for itself: it is part of the stage's key, with the strategy.

    Attributes:
        needs: "training"; a criterion never has this value.
        task: "classification" for a method that reads class scores; None for any task.
        alone: whether one process must train it, as what it observes differs between processes.
        requires: "batch-norm" where models without it are a skipped row.
        version: increase it when the numbers change; it is part of trial_id.
        paper: authors, title, venue, equation.

    Example:
        >>> import torch
        >>> from raybench.groups.records import Group
        >>> @dataclass
        ... class Smallest(TrainedSelection):
        ...     strength: float = 0.5
        ...     def attach(self, model: nn.Module, budget: Budget) -> None:
        ...         self.weight, self.budget = model.weight, budget
        ...     def add_gradients(self) -> None:
        ...         self.weight.grad.add_(self.weight.detach(), alpha=self.strength)
        ...     def kept(self) -> Kept:
        ...         return self.budget.choose({"fc": self.weight.detach().norm(dim=1).numpy()})
        >>> Smallest.needs
        'training'
    """

    needs: ClassVar[str] = "training"
    task: ClassVar[str | None] = None
    alone: ClassVar[bool] = False

    def bind(self, model: nn.Module, groups: Groups) -> None:
        """Not called: `attach` takes its place.

        Args:
            model: the network.
            groups: its prunable groups.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} selects while it trains; call attach(model, budget)")

    def attach(self, model: nn.Module, budget: Budget) -> None:
        """Put into the network what is to be trained, and remember what `add_gradients` acts on; called once.

        The recipe's optimizer trains the new parameters of `model`; those of `own_parameters` as `own_settings` says.

        Args:
            model: the network, changed and trained in place. In eval mode it must compute what it did.
            budget: the asked speed-up and the cost of every cut.

        Raises:
            NotSupported: there is nothing in this model that it can cut; names why.
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define attach(model, budget)")

    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters of the network that the optimizer treats as `own_settings` says.

        Returns:
            None of them by default.
        """
        return ()

    def own_settings(self) -> Mapping[str, Any]:
        """How the optimizer treats `own_parameters`.

        Returns:
            Options of an optimizer's parameter group, such as ``{"momentum": 0.99, "weight_decay": 0.0}``; those that
            the recipe's optimizer doesn't have are left out. The learning rate is the recipe's.
        """
        return {}

    def observe(self, outputs: Tensor, labels: Tensor) -> None:
        """Look at the class scores of a training batch, before `add_gradients`; does nothing by default.

        Args:
            outputs: (images, classes), without gradient.
            labels: (images,) int64.
        """

    def kept(self) -> Kept:
        """Tell the units that stay; called once, when training has ended.

        Returns:
            Units of every group that can be cut, ascending. Groups that it doesn't name stay whole.

        Raises:
            NotImplementedError: the subclass doesn't define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define kept()")

    def fold(self) -> None:
        """Remove what `attach` put into the network, so that it has its first parameters and buffers again.

        In eval mode the folded network, with the units that aren't kept at zero, computes what the trained one does, as
        far as the method promises that. Does nothing by default.
        """
