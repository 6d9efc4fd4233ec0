"""Raw scores of criteria that sum a saliency over weights: running sums over matrices that are computed once.

Each layer becomes one (out x in) matrix. A unit's score is a sum of rows and columns; when positions of one side
are removed, their rows or columns are subtracted from the scores of the other side's groups. So a whole schedule
reads every entry about once, however many steps it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from raybench.groups.records import Group, Groups, Member, Side
from raybench.groups.widths import sides_of
from raybench.methods.layers import UNSCORED_KINDS, Evidence, view, weight_of
from raybench.methods.protocols import ElementwiseImportance, NeighbourImportance
from raybench.scoring import contract
from raybench.scoring.recompute import other, scattered

Salient = ElementwiseImportance | NeighbourImportance
Positions = Callable[[np.ndarray], np.ndarray]  # units -> the positions that they own on one side
Scatter = Callable[[np.ndarray], np.ndarray]  # values of a side's positions -> summed per unit


@dataclass(frozen=True)
class ScoreUpdate:
    """How removing units of one group changes the scores of the groups on the other side of one layer."""

    matrix: Matrix
    side: Side  # the side that loses positions
    positions: Positions
    targets: tuple[tuple[int, Scatter], ...]  # groups on the other side, and how to sum their positions per unit


class RunningSums:
    """Raw scores updated by subtraction, for reductions that are linear in the layers' scores.

    Each position must belong to one group only: see `shared_positions`.
    """

    def __init__(
        self,
        criterion: ElementwiseImportance,
        model: nn.Module,
        groups: Groups,
        evidence: Evidence | None,
        seed: int,
    ) -> None:
        self.groups, self._sides = groups, sides_of(groups)
        matrices = matrices_of(criterion, model, groups, evidence, seed)
        self._full = [_whole(group, matrices) for group in groups]
        scored_members = [sum(m.layer in matrices for m in group.members) for group in groups]
        self._share = [1 / n if n and criterion.reduce == "mean" else 1.0 for n in scored_members]
        self._updates = [
            [t for member in group.members if (t := self._update_of(member, group.size, matrices)) is not None]
            for group in groups
        ]

    def start(self) -> None:
        """Reset to the scores of the whole network: no unit is removed."""
        self._raw = [
            None if full is None else full * share for full, share in zip(self._full, self._share, strict=True)
        ]

    def remove(self, gone: Sequence[np.ndarray]) -> set[int]:
        """Remove units `gone[g]` of each group; returns the groups whose raw scores or remaining units changed."""
        changed = {g for g, units in enumerate(gone) if len(units)}
        for g in sorted(changed):
            for update in self._updates[g]:
                positions = update.positions(gone[g])
                if len(update.targets) and len(positions):
                    lost = update.matrix.across(update.side, positions)
                    for h, scatter in update.targets:
                        raw = self._raw[h]
                        assert raw is not None  # this layer's matrix is among the group's scores
                        raw -= scatter(lost) * self._share[h]
                        changed.add(h)
        return changed

    def raw(self, g: int) -> np.ndarray | None:
        """Reduced scores of one group's units, (size,) float64; None when no layer contributes a score."""
        return self._raw[g]

    def _update_of(self, member: Member, size: int, matrices: dict[str, Matrix]) -> ScoreUpdate | None:
        matrix = matrices.get(member.layer)
        if matrix is None or not matrix.two_sided:
            return None
        owners = self._sides.get(other((member.layer, member.side)), ())
        targets = tuple((h, _scatter(m, self.groups.groups[h].size)) for h, m in owners)
        return ScoreUpdate(matrix, member.side, _positions(member, size), targets)


def shared_positions(groups: Groups) -> bool:
    """Whether any two groups own the same position of a side, as an attention's heads and head width do."""
    sides = ([member.positions for _, member in owners] for owners in sides_of(groups).values())
    return any(len(np.unique(owned)) < len(owned) for owned in map(np.concatenate, sides))


def _whole(group: Group, matrices: dict[str, Matrix]) -> np.ndarray | None:
    rows = [scattered(m, matrices[m.layer].total(m.side), group.size) for m in group.members if m.layer in matrices]
    return np.sum(rows, axis=0) if rows else None


def _positions(member: Member, size: int) -> Positions:
    if len(member.positions) == size and np.array_equal(member.units, np.arange(size)):
        return (lambda units: units) if member.width == size else (lambda units: member.positions[units])
    order = np.argsort(member.units, kind="stable")
    table = member.positions[order].reshape(size, -1)  # units own equally many positions: `Widths` checks it
    return lambda units: table[units].ravel()


def _scatter(member: Member, size: int) -> Scatter:
    if len(member.positions) == size and np.array_equal(member.units, np.arange(size)):
        return (lambda values: values) if member.width == size else (lambda values: values[member.positions])
    return lambda values: scattered(member, values, size)


def matrices_of(
    criterion: Salient, model: nn.Module, groups: Groups, evidence: Evidence | None, seed: int
) -> dict[str, Matrix]:
    """Layer -> its saliencies, of every layer with a weight that is in a group."""
    found: dict[str, Matrix] = {}
    for (layer, _), owners in sides_of(groups).items():
        member = owners[0][1]
        if member.kind in UNSCORED_KINDS or layer in found:
            continue
        width = member.width if member.side == "out" else _outputs(model.get_submodule(layer))
        none = member.positions[:0]
        outputs = replace(member, side="out", width=width, positions=none, units=none)
        if weight_of(model, outputs) is None:
            continue
        rows = view(model, outputs, evidence=evidence, seed=seed)
        two_sided = member.kind in ("conv", "linear")
        groups_of_conv = getattr(rows.module, "groups", 1) if member.kind == "conv" else 1
        found[layer] = Matrix(contract.saliency(criterion, rows), two_sided, groups_of_conv)
    return found


def _outputs(module: Any) -> int:
    """Width of the output side of a linear layer or convolution."""
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


class Matrix:
    """One layer's saliency summed over kernel taps, (out, in of one convolution group), and sums over it."""

    def __init__(self, saliency: Tensor, two_sided: bool, groups: int) -> None:
        flat = saliency.flatten(2).sum(2) if saliency.dim() > 2 else saliency
        flat = flat if two_sided else flat.flatten(1).sum(1, keepdim=True)
        self.two_sided, self.groups = two_sided, groups
        self.values = np.ascontiguousarray(flat.detach().float().cpu().numpy())

    def total(self, side: Side) -> np.ndarray:
        """Score of each position of a side of the whole layer, (width,) float64."""
        if side == "out":
            return self.values.sum(1, dtype=np.float64)
        by_group = self.values.reshape(self.groups, -1, self.values.shape[1])
        return by_group.sum(1, dtype=np.float64).ravel()

    def across(self, side: Side, positions: np.ndarray) -> np.ndarray:
        """What the other side's scores lose when `positions` of `side` are removed, (other width,) float64."""
        if self.groups > 1:
            return self._across_groups(side, positions)
        if side == "in":
            return np.add.reduce(self.values.take(positions, axis=1), axis=1, dtype=np.float64)
        return np.add.reduce(self.values.take(positions, axis=0), axis=0, dtype=np.float64)

    def weighed(self, inputs: np.ndarray) -> np.ndarray:
        """Each output's saliencies times `inputs`, (input width,), summed up: (output width,) float64."""
        if not self.two_sided:
            return np.asarray(self.values[:, 0] * inputs)
        by_group = self.values.reshape(self.groups, -1, self.values.shape[1])
        found = by_group @ inputs.astype(np.float32).reshape(self.groups, -1, 1)
        return np.asarray(found.ravel(), dtype=np.float64)

    def _across_groups(self, side: Side, positions: np.ndarray) -> np.ndarray:
        outs, inner = self.values.shape
        if side == "in":  # the same slots are removed from every group
            return self.values[:, np.unique(positions % inner)].sum(1, dtype=np.float64)
        lost = np.zeros((self.groups, inner))
        np.add.at(lost, positions // (outs // self.groups), self.values[positions])
        return lost.ravel()
