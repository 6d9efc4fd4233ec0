"""From a criterion to one score a unit: scatter to units, reduce over a group's layers, normalise over what is left.

A schedule scores again and again while channels disappear on paper. Only what a removal touches is scored anew:
the *other* side of each layer that lost channels, and for criteria that compare channels the side itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from raybench.errors import StageError
from raybench.methods.evidence import Evidence
from raybench.methods.protocols import ElementwiseImportance, Importance
from raybench.methods.scoring_sources import ElementSource, FixedSource, LayerSource, Source
from raybench.pipeline.records import Group, Groups, Member
from raybench.pipeline.widths import sides_of

Alive = Sequence[np.ndarray]  # one bool array (size,) a group
Scatter = Callable[[np.ndarray], np.ndarray]
REDUCE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda rows: rows.mean(axis=0),
    "sum": lambda rows: rows.sum(axis=0),
    "max": lambda rows: rows.max(axis=0),
    "first": lambda rows: rows[0],
}


class Scorer:
    """Scores every group's units under one criterion; remembers what it has computed between calls."""

    def __init__(
        self, criterion: Importance, model: nn.Module, groups: Groups, evidence: Evidence | None = None, seed: int = 0
    ) -> None:
        """`model` and `evidence` must stay as they are while this scorer is in use."""
        self.criterion, self.groups = criterion, groups
        self._sides = sides_of(groups)
        self._scatters = {group.name: [(m, _scatter(m, group.size)) for m in group.members] for group in groups}
        self._source: Source = _source(criterion)(criterion, model, groups, evidence, seed)
        self._start()

    def scores(self, alive: Alive | None = None) -> list[np.ndarray | None]:
        """Normalised score of each unit, one float64 array (size,) a group; None where no layer has a say.

        `alive`: units still there (None: all); entries of dead units mean nothing. StageError names a group whose
        scores aren't finite.
        """
        alive = [np.ones(group.size, dtype=bool) for group in self.groups] if alive is None else alive
        for g in self._remove(alive):
            self._scores[g] = self._score(self.groups.groups[g], alive[g])
        return list(self._scores)

    def rank(self) -> list[np.ndarray | None]:
        """One step on the whole network: each group's units from worst to best, None where no layer has a say."""
        return [None if s is None else np.argsort(s, kind="stable") for s in self.scores()]

    def _start(self) -> None:
        self._alive = [np.ones(group.size, dtype=bool) for group in self.groups]
        self._places = {key: np.ones(owners[0][1].width, dtype=bool) for key, owners in self._sides.items()}
        self._source.start()
        self._scores: list[np.ndarray | None] = [
            self._score(group, self._alive[g]) for g, group in enumerate(self.groups)
        ]

    def _remove(self, alive: Alive) -> set[int]:
        """Take out what died since the last call; returns the groups whose scores change with it."""
        if any((now & ~before).any() for now, before in zip(alive, self._alive, strict=True)):
            self._start()
        shrunk = {g for g, (now, before) in enumerate(zip(alive, self._alive, strict=True)) if (now != before).any()}
        dirty = set(shrunk)
        touched = {(m.layer, m.side): None for g in sorted(shrunk) for m in self.groups.groups[g].members}
        for key in touched:
            places = self._places[key]
            gone = np.zeros(len(places), dtype=bool)
            for g, member in self._sides[key]:
                if g in shrunk:
                    gone[member.positions] |= ~alive[g][member.units]
            gone = np.nonzero(gone & places)[0]
            if len(gone):
                places[gone] = False
                for changed in self._source.remove(key, gone, self._places):
                    dirty.update(g for g, _ in self._sides.get(changed, ()))
        self._alive = [np.array(now) for now in alive]
        return dirty

    def _score(self, group: Group, alive: np.ndarray) -> np.ndarray | None:
        found = (self._row(member, scatter) for member, scatter in self._scatters[group.name])
        rows = [row for row in found if row is not None]
        if not rows:
            return None
        raw = rows[0] if len(rows) == 1 else REDUCE[self.criterion.reduce](np.stack(rows))
        total = raw[alive].sum()
        if not np.isfinite(total):
            raise StageError("select", f"the scores of group {group.name!r} are not finite")
        return _normalised(raw, alive, total, self.criterion.normalize)

    def _row(self, member: Member, scatter: Scatter) -> np.ndarray | None:
        """One member's scores summed per unit, (size,)."""
        values = self._source.values(member)
        return values if values is None else scatter(values)


def _scatter(member: Member, size: int) -> Scatter:
    """The cheapest way to sum a side's scores, (width,), per unit, (size,)."""
    positions, units = member.positions, member.units
    if len(positions) == size and np.array_equal(units, np.arange(size)):
        if member.width == size:
            return lambda values: values
        return lambda values: values[positions]
    return lambda values: np.bincount(units, values[positions], size)


def _source(criterion: Importance) -> type[Source]:
    """How the criterion's scores follow removals: never, by subtraction, or by asking it again."""
    if criterion.needs in ("nothing", "activations"):
        return FixedSource
    plain_sum = type(criterion).layer_scores is ElementwiseImportance.layer_scores
    return ElementSource if plain_sum else LayerSource


def _normalised(raw: np.ndarray, alive: np.ndarray, total: float, how: str) -> np.ndarray:
    """`raw` on a scale that compares across groups; `total`: sum over the living. A group of zeros stays zeros."""
    if how == "none" or total == 0:
        return raw
    if how == "lamp":  # s_u / sum of all s_v >= s_u (Lee et al., LAMP, eq. 3), over units instead of weights
        living = np.nonzero(alive)[0]
        order = living[np.argsort(raw[living], kind="stable")]
        scores = np.zeros_like(raw)
        scores[order] = raw[order] / np.cumsum(raw[order][::-1])[::-1]
        return scores
    scale = {"mean": total / alive.sum(), "max": raw[alive].max(), "sum": total}[how]
    return raw / scale
