"""growing-reg: a squared penalty that grows from epoch to epoch, faster for weaker units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from raybench.groups.records import Groups
from raybench.methods.penalty import GroupWeights, bind_groups
from raybench.methods.protocols import Regularizer
from raybench.registry import regularizer


@regularizer("growing-reg", limits={"strength": (0, None), "growth": (0, None)})
@dataclass
class GrowingReg(Regularizer):
    """lambda_k / 2 * ||w_k||^2 with one lambda_k per unit, which grows after each epoch.

    lambda_k starts at `strength` and grows by `growth` * (I_max - I_k) / (I_max - I_min), I_k the squared L2 norm
    of the unit's scored weights: the weakest unit of a group by `growth`, the strongest not at all. Position
    embeddings, class tokens and layer scales aren't scored, so they neither count nor get a penalty.

    With `norm_scales: false` this is torch-pruning's form, which PruningBench runs: norm scales count in I_k but get no
    penalty (the library adds the batch norms' part to a copy of the gradient, and has none for other norms). Wang et
    al., section 3.2, instead grow one lambda by a constant on a set of units chosen beforehand; here the criterion
    chooses afterwards. Where all units are equal nothing grows.
    """

    strength: float = 1e-4
    growth: float = 1e-5
    norm_scales: bool = True  # whether scales of norms are penalised
    _groups: tuple[GroupWeights, ...] = field(default=(), init=False, repr=False)
    _factors: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    version = 2
    capturable = True
    paper = "Wang et al., Neural pruning via growing regularization, ICLR 2021, section 3.2"

    def bind(self, model: nn.Module, groups: Groups) -> None:
        """Collect the weights of every group; every unit starts with the same factor."""
        self._groups = bind_groups(
            model, groups, pulled=lambda member, layer: self.norm_scales or member.kind != "norm"
        )
        self._factors = {group.name: torch.full_like(group.squares(), self.strength) for group in self._groups}

    def add_gradients(self) -> None:
        """grad += lambda_k * w."""
        for group in self._groups:
            group.pull(self._factors[group.name])

    def end_epoch(self) -> None:
        """Increase every lambda_k by its unit's weakness within the group."""
        for group in self._groups:
            squares = group.squares()
            span = squares.max() - squares.min()
            weakness = torch.where(span > 0, (squares.max() - squares) / span, torch.zeros_like(squares))
            self._factors[group.name] = self._factors[group.name] + self.growth * weakness

    def state_dict(self) -> Mapping[str, Tensor]:
        """Group name -> (units,) lambda."""
        return dict(self._factors)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the lambdas of an interrupted stage."""
        self._factors = {name: state[name].to(factor) for name, factor in self._factors.items()}
