"""Raw scores recomputed by calling the criterion again, for one side of one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from raybench.catalogue import evidence_kinds
from raybench.groups.records import Groups, Member, Side
from raybench.groups.widths import sides_of
from raybench.methods.layers import UNSCORED_KINDS, Evidence, view, weight_of
from raybench.methods.protocols import Importance, Layer
from raybench.scoring import contract

Key = tuple[str, Side]  # (layer, side)
NO_WEIGHTS = {"nothing", "activations"}  # needs of criteria that also score layers without a weight
REDUCE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda rows: rows.mean(axis=0),
    "sum": lambda rows: rows.sum(axis=0),
    "max": lambda rows: rows.max(axis=0),
    "first": lambda rows: rows[0],
}


class Recomputed:
    """Raw scores of any criterion: a side is scored again whenever it or its opposite has lost channels."""

    def __init__(
        self, criterion: Importance, model: nn.Module, groups: Groups, evidence: Evidence | None, seed: int
    ) -> None:
        self.criterion, self.model, self.evidence, self.seed = criterion, model, evidence, seed
        self.groups, self._sides = groups, sides_of(groups)
        self._members = {
            (m.layer, m.side): m for group in groups for m in group.members if m.kind not in UNSCORED_KINDS
        }
        self._values: dict[Key, np.ndarray | None] = {}

    def start(self) -> None:
        """Score every side of the whole network: no unit is removed."""
        self._places = {key: np.ones(owners[0][1].width, dtype=bool) for key, owners in self._sides.items()}
        self._values = {key: self._compute(member) for key, member in self._members.items()}

    def remove(self, gone: Sequence[np.ndarray]) -> set[int]:
        """Remove units `gone[g]` of each group; returns the groups whose raw scores or remaining units changed."""
        shrunk: dict[Key, list[np.ndarray]] = {}  # newly removed positions
        for g, units in enumerate(gone):
            if not len(units):
                continue
            removed = np.zeros(self.groups.groups[g].size, dtype=bool)
            removed[units] = True
            for member in self.groups.groups[g].members:
                places = self._places[member.layer, member.side]
                positions = member.positions[removed[member.units]]
                shrunk.setdefault((member.layer, member.side), []).append(positions[places[positions]])
                places[positions] = False
        again = dict.fromkeys(key for key in self._again(shrunk) if self._values.get(key) is not None)
        for key in again:
            self._values[key] = self._compute(self._members[key])
        return {g for g, units in enumerate(gone) if len(units)} | {g for k in again for g, _ in self._sides[k]}

    def _again(self, shrunk: Mapping[Key, list[np.ndarray]]) -> Iterable[Key]:
        """The sides whose scores may change when these lost positions."""
        return (k for key in shrunk for k in (key, other(key)))

    def raw(self, g: int) -> np.ndarray | None:
        """Reduced scores of one group's units, (size,) float64; None when no layer contributes a score."""
        group = self.groups.groups[g]
        found = ((m, self._values.get((m.layer, m.side))) for m in group.members)
        rows = [scattered(m, values, group.size) for m, values in found if values is not None]
        return REDUCE[self.criterion.reduce](np.stack(rows)) if rows else None

    def _compute(self, member: Member) -> np.ndarray | None:
        """The criterion's scores of one side, (width,) float64; 0 for removed channels. None: not scored."""
        if NO_WEIGHTS.isdisjoint(evidence_kinds(self.criterion.needs)) and weight_of(self.model, member) is None:
            return None
        key = (member.layer, member.side)
        own, across = _left(self._places[key]), _left(self._places.get(other(key)))
        layer = view(self.model, member, evidence=self.evidence, other=across, seed=self.seed)
        found = contract.layer_scores(self.criterion, layer if own is None else _only(layer, torch.from_numpy(own)))
        if found is None:
            return None
        if own is None:
            return found.double().cpu().numpy()
        values = np.zeros(member.width)
        values[own] = found.double().cpu().numpy()
        return values


class ComputedOnce(Recomputed):
    """Raw scores of a criterion that don't change when other channels are removed."""

    def start(self) -> None:
        """Score every side, unless that is done."""
        if not self._values:
            super().start()

    def remove(self, gone: Sequence[np.ndarray]) -> set[int]:
        """Return the groups that lost units: they are normalised again."""
        return {g for g, units in enumerate(gone) if len(units)}


def other(key: Key) -> Key:
    """The opposite side of the same layer."""
    return key[0], "in" if key[1] == "out" else "out"


def scattered(member: Member, values: np.ndarray, size: int) -> np.ndarray:
    """Scores of a side's positions, (width,), summed per unit, (size,)."""
    return np.bincount(member.units, values[member.positions], size)


def _left(places: np.ndarray | None) -> np.ndarray | None:
    return None if places is None or places.all() else np.nonzero(places)[0]


def _only(layer: Layer, left: Tensor) -> Layer:
    """`layer` with the channels `left` alone."""

    def rows(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, left.to(tensor.device))

    def optional(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else rows(tensor)

    return replace(
        layer,
        weight=rows(layer.weight),
        bias=optional(layer.bias),
        gradient=optional(layer.gradient),
        gradient_square=optional(layer.gradient_square),
        before=optional(layer.before),
        after=optional(layer.after),
        unit=optional(layer.unit),
    )
