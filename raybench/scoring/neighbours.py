"""Energies of what feeds and what reads each layer, and raw scores of criteria that look at them.

The energy of a filter is the sum of its squared weights, that of an input slice likewise; a link multiplies by the
squared scales of its norms. Energies of one position add up over links, an identity shortcut adds 1, and a position
without a neighbour has 1. Only what is left counts: removals are subtracted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from raybench.groups.records import Groups, Member, Side
from raybench.groups.widths import sides_of
from raybench.methods.layers import Evidence, view
from raybench.methods.protocols import NeighbourImportance, has_filters
from raybench.scoring.links import links_of
from raybench.scoring.recompute import Key, Recomputed
from raybench.scoring.running_sums import Matrix, matrices_of

TWO_SIDED = ("conv", "linear")


@dataclass(frozen=True)
class Around:
    """Energies by layer: of what feeds each input, and of what reads each output; float64."""

    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]

    def changed(self, earlier: Around) -> list[str]:
        """Layers with other energies than `earlier`."""
        pairs = ((self.before, earlier.before), (self.after, earlier.after))
        return [name for name in self.before if any(not np.array_equal(now[name], was[name]) for now, was in pairs)]


class Energies:
    """The energies of all filters and input slices, kept up to date as positions are removed."""

    def __init__(self, model: nn.Module, groups: Groups) -> None:
        """`model` must not change while the energies are in use."""
        self._links, shortcuts = links_of(model, groups)
        self._matrices = {
            member.layer: _matrix(model, member)
            for member in (owners[0][1] for owners in sides_of(groups).values())
            if member.kind in (*TWO_SIDED, "depthwise")
        }
        self._alone: dict[str, dict[str, np.ndarray]] = {"in": {}, "out": {}}  # energies without any link
        for name, matrix in self._matrices.items():
            self._alone["in"][name] = np.ones(len(matrix.total("in")) if matrix.two_sided else len(matrix.values))
            self._alone["out"][name] = np.ones(len(matrix.values))
        for link in self._links:
            self._alone["in"][link.reader][link.inputs] = 0
            self._alone["out"][link.writer][link.outputs] = 0
        for shortcut in shortcuts:
            self._alone[shortcut.side][shortcut.layer][shortcut.positions] = 1
        self.start()

    def start(self) -> None:
        """Reset to the whole network."""
        self._filters = {name: matrix.total("out") for name, matrix in self._matrices.items()}
        self._slices = {
            name: matrix.total("in") if matrix.two_sided else self._filters[name]
            for name, matrix in self._matrices.items()
        }

    def remove(self, layer: str, side: Side, positions: np.ndarray) -> None:
        """Positions of one side of a layer are gone: the other side's filters or slices have fewer weights."""
        matrix = self._matrices.get(layer)
        if matrix is not None and matrix.two_sided and len(positions):
            rest = self._filters if side == "in" else self._slices
            rest[layer] = np.maximum(rest[layer] - matrix.across(side, positions), 0)

    def around(self) -> Around:
        """What feeds and what reads each layer now."""
        before, after = ({name: values.copy() for name, values in side.items()} for side in self._alone.values())
        for link in self._links:
            fed, read = self._filters[link.writer][link.outputs], self._slices[link.reader][link.inputs]
            np.add.at(before[link.reader], link.inputs, link.factors * fed)
            np.add.at(after[link.writer], link.outputs, link.factors * read)
        return Around(before, after)


class WithNeighbours(Recomputed):
    """Raw scores of a criterion that looks at neighbours: layers whose neighbours changed are scored again, too."""

    def start(self) -> None:
        """Score every side of the whole network: no unit is removed."""
        self._energies = Energies(self.model, self.groups)
        self._look()
        super().start()

    def _again(self, shrunk: Mapping[Key, list[np.ndarray]]) -> Iterable[Key]:
        for (layer, side), gone in shrunk.items():
            self._energies.remove(layer, side, np.concatenate(gone))
        earlier = self._around
        self._look()
        sides: tuple[Side, Side] = ("out", "in")
        near = ((name, side) for name in self._around.changed(earlier) for side in sides)
        return [*super()._again(shrunk), *near]

    def _look(self) -> None:
        self._around = self._energies.around()
        self.evidence = replace(self.evidence or Evidence(), before=self._around.before, after=self._around.after)


class RunningProducts(WithNeighbours):
    """Raw scores of a `NeighbourImportance`: each layer's saliencies are computed once, as one matrix.

    A layer is scored again by one product of that matrix with the energies before it.
    """

    def __init__(
        self, criterion: NeighbourImportance, model: nn.Module, groups: Groups, evidence: Evidence | None, seed: int
    ) -> None:
        super().__init__(criterion, model, groups, evidence, seed)
        self._saliencies = matrices_of(criterion, model, groups, evidence, seed)

    def _compute(self, member: Member) -> np.ndarray | None:
        """Scores of one side, (width,) float64; 0 for removed channels. None for what has no filters."""
        if not has_filters(member):
            return None
        fed, read = self._around.before[member.layer], self._around.after[member.layer]
        there = self._places.get((member.layer, "in"))
        found = self._saliencies[member.layer].weighed(fed if there is None else np.where(there, fed, 0.0))
        return np.where(self._places[member.layer, "out"], found * read, 0.0)


def _matrix(model: nn.Module, member: Member) -> Matrix:
    """Squared weights of a layer, (outputs, inputs)."""
    rows = view(model, replace(member, side="out")) if member.kind in TWO_SIDED else view(model, member)
    return Matrix(rows.weight.square(), member.kind in TWO_SIDED, getattr(rows.module, "groups", 1))
