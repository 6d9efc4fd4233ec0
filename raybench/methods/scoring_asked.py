"""Raw scores of criteria that have to be asked: about one side of one layer at a time, as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from raybench.methods.evidence import Evidence
from raybench.methods.layers import view
from raybench.methods.protocols import Importance, Layer
from raybench.pipeline.records import Groups, Member
from raybench.pipeline.widths import sides_of

Key = tuple[str, str]  # (layer, side)
NO_SAY = ("parameter",)  # position embeddings, class tokens and layer scales don't vote, as in torch-pruning
REDUCE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda rows: rows.mean(axis=0),
    "sum": lambda rows: rows.sum(axis=0),
    "max": lambda rows: rows.max(axis=0),
    "first": lambda rows: rows[0],
}


class AskedAgain:
    """Any criterion: asked again about a side whenever that side or its opposite has lost channels."""

    def __init__(
        self, criterion: Importance, model: nn.Module, groups: Groups, evidence: Evidence | None, seed: int
    ) -> None:
        self.criterion, self.model, self.evidence, self.seed = criterion, model, evidence, seed
        self.groups, self._sides = groups, sides_of(groups)
        self._members = {(m.layer, m.side): m for group in groups for m in group.members if m.kind not in NO_SAY}
        self._values: dict[Key, np.ndarray | None] = {}

    def start(self) -> None:
        """Every unit lives: score every side whole."""
        self._places = {key: np.ones(owners[0][1].width, dtype=bool) for key, owners in self._sides.items()}
        self._values = {key: self._ask(member) for key, member in self._members.items()}

    def remove(self, gone: Sequence[np.ndarray]) -> set[int]:
        """Units `gone[g]` of each group just died; returns the groups whose raw scores or living units changed."""
        shrunk: dict[Key, None] = {}
        for g, units in enumerate(gone):
            if not len(units):
                continue
            dead = np.zeros(self.groups.groups[g].size, dtype=bool)
            dead[units] = True
            for member in self.groups.groups[g].members:
                self._places[member.layer, member.side][member.positions[dead[member.units]]] = False
                shrunk[member.layer, member.side] = None
        asked = dict.fromkeys(k for key in shrunk for k in (key, other(key)) if self._values.get(k) is not None)
        for key in asked:
            self._values[key] = self._ask(self._members[key])
        return {g for g, units in enumerate(gone) if len(units)} | {g for k in asked for g, _ in self._sides[k]}

    def raw(self, g: int) -> np.ndarray | None:
        """Reduced scores of one group's units, (size,) float64; None when no layer has a say."""
        group = self.groups.groups[g]
        found = ((m, self._values.get((m.layer, m.side))) for m in group.members)
        rows = [scattered(m, values, group.size) for m, values in found if values is not None]
        return REDUCE[self.criterion.reduce](np.stack(rows)) if rows else None

    def _ask(self, member: Member) -> np.ndarray | None:
        """The criterion's scores of the living channels of one side, (width,) float64, zero for the dead."""
        key = (member.layer, member.side)
        own, across = _left(self._places[key]), _left(self._places.get(other(key)))
        layer = view(self.model, member, evidence=self.evidence, other=across, seed=self.seed)
        found = self.criterion.layer_scores(layer if own is None else _only(layer, torch.from_numpy(own)))
        if found is None:
            return None
        if own is None:
            return found.double().cpu().numpy()
        values = np.zeros(member.width)
        values[own] = found.double().cpu().numpy()
        return values


class AskedOnce(AskedAgain):
    """A criterion whose scores don't follow other channels' removal: the first answers stand."""

    def start(self) -> None:
        """Ask, unless it was asked before."""
        if not self._values:
            super().start()

    def remove(self, gone: Sequence[np.ndarray]) -> set[int]:
        """Only the groups that lost units are normalised anew."""
        return {g for g, units in enumerate(gone) if len(units)}


def other(key: Key) -> Key:
    """The layer's opposite side."""
    return key[0], "in" if key[1] == "out" else "out"


def scattered(member: Member, values: np.ndarray, size: int) -> np.ndarray:
    """Scores of a side's positions, (width,), summed per unit, (size,)."""
    return np.bincount(member.units, values[member.positions], size)


def _left(places: np.ndarray | None) -> np.ndarray | None:
    return None if places is None or places.all() else np.nonzero(places)[0]


def _only(layer: Layer, left: Tensor) -> Layer:
    """`layer` without the channels that are gone."""

    def rows(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.index_select(0, left.to(tensor.device))

    fields = ("weight", "bias", "gradient", "gradient_square", "unit")
    return replace(layer, **{name: rows(getattr(layer, name)) for name in fields})
