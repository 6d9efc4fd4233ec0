"""From a criterion to one score per unit: sums per unit, reduction over a group's layers, normalisation.

A schedule scores repeatedly while it simulates removals. Only what a removal changes is scored again: the *other*
side of each layer that lost channels, and for criteria that compare channels the side itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn

from raybench.catalogue import evidence_kinds
from raybench.errors import StageError
from raybench.groups.records import Groups
from raybench.methods.layers import Evidence
from raybench.methods.protocols import (
    Calibration,
    ElementwiseImportance,
    Importance,
    NeighbourImportance,
    PairwiseImportance,
)
from raybench.scoring.gather import gather
from raybench.scoring.neighbours import RunningProducts, WithNeighbours
from raybench.scoring.recompute import NO_WEIGHTS, ComputedOnce, Recomputed
from raybench.scoring.running_pairs import RunningPairs
from raybench.scoring.running_sums import RunningSums, shared_positions

Alive = Sequence[np.ndarray]  # one bool array (size,) per group: the remaining units


class RawScores(Protocol):
    """How raw scores change with removals: by subtraction, by recomputing what changed, or not at all."""

    def start(self) -> None:
        """Score the whole network: no unit is removed."""

    def remove(self, gone: Sequence[np.ndarray]) -> set[int]:
        """Remove units `gone[g]` (int64 indices) of each group g.

        Returns:
            The groups whose raw scores or remaining units changed.
        """

    def raw(self, g: int) -> np.ndarray | None:
        """Scores of group `g`'s units reduced over its layers, (size,) float64; None when no layer is scored.

        Entries of removed units are meaningless.
        """


@dataclass(frozen=True)
class Scoring:
    """Everything that a criterion's scores depend on, except the groups."""

    criterion: Importance
    model: nn.Module  # on the device to compute on; never changed
    calibration: Calibration | None = None  # the images for a data-driven criterion
    seed: int = 0

    def scorer(self, groups: Groups) -> Scorer:
        """A scorer of `groups`, with freshly gathered evidence.

        Args:
            groups: the prunable groups of `self.model`.

        Raises:
            UserError: there are fewer calibration images than the criterion needs.
            StageError: an activation, gradient or score is not finite.
        """
        evidence = gather(self.criterion, self.model, groups, self.calibration)
        return Scorer(self.criterion, self.model, groups, evidence, self.seed)


class Scorer:
    """Scores every group's units under one criterion, reusing what it computed in earlier calls."""

    def __init__(
        self, criterion: Importance, model: nn.Module, groups: Groups, evidence: Evidence | None = None, seed: int = 0
    ) -> None:
        """`model` and `evidence` must not change while this scorer is in use."""
        self.groups, self.normalize = groups, criterion.normalize
        self._raw: RawScores = _raw_scores(criterion, groups)(criterion, model, groups, evidence, seed)
        self._start()

    def scores(self, alive: Alive | None = None) -> list[np.ndarray | None]:
        """Normalised score of each unit, one float64 array (size,) per group; None where no layer is scored.

        `alive`: the remaining units (None: all); entries of removed units are meaningless. StageError names a group
        whose scores aren't finite.
        """
        alive = [np.ones(group.size, dtype=bool) for group in self.groups] if alive is None else alive
        if any((now & ~before).any() for now, before in zip(alive, self._alive, strict=True)):
            self._start()
        gone = [np.nonzero(before & ~now)[0] for now, before in zip(alive, self._alive, strict=True)]
        for g in self._raw.remove(gone):
            self._alive[g] = np.array(alive[g])
            self._scores[g] = self._score(g)
        return list(self._scores)

    def rank(self) -> list[np.ndarray | None]:
        """Each group's units of the whole network from worst to best; None where no layer is scored."""
        return [None if s is None else np.argsort(s, kind="stable") for s in self.scores()]

    def _start(self) -> None:
        self._alive = [np.ones(group.size, dtype=bool) for group in self.groups]
        self._raw.start()
        self._scores = [self._score(g) for g in range(len(self.groups))]

    def _score(self, g: int) -> np.ndarray | None:
        raw, alive = self._raw.raw(g), self._alive[g]
        if raw is None:
            return None
        total = float(raw @ alive)
        if not np.isfinite(total):
            raise StageError("select", f"the scores of group {self.groups.groups[g].name!r} are not finite")
        return normalised(raw, alive, total, self.normalize)


def _raw_scores(criterion: Importance, groups: Groups) -> Callable[..., RawScores]:
    """The cheapest class of raw scores that is exact for `criterion`."""
    if not NO_WEIGHTS.isdisjoint(evidence_kinds(criterion.needs)):
        return ComputedOnce
    if criterion.neighbours:
        product = type(criterion).layer_scores is NeighbourImportance.layer_scores
        return RunningProducts if product else WithNeighbours
    if type(criterion).layer_scores is PairwiseImportance.layer_scores:
        return RunningPairs
    plain_sum = type(criterion).layer_scores is ElementwiseImportance.layer_scores
    linear = plain_sum and criterion.reduce in ("mean", "sum")
    return RunningSums if linear and not shared_positions(groups) else Recomputed


def normalised(raw: np.ndarray, alive: np.ndarray, total: float, how: str) -> np.ndarray:
    """`raw` scaled to compare across groups, by one of `Importance.normalize`; a group of zeros stays zeros.

    `total`: sum of `raw` over the remaining units.
    """
    if how == "none" or total == 0:
        return raw.copy()
    if how == "lamp":  # s_u / sum of all s_v >= s_u (Lee et al., LAMP, section 2), over units instead of weights
        remaining = np.nonzero(alive)[0]
        order = remaining[np.argsort(raw[remaining], kind="stable")]
        scores = np.zeros_like(raw)
        scores[order] = raw[order] / np.cumsum(raw[order][::-1])[::-1]
        return scores
    if how == "mean":
        return raw * (np.count_nonzero(alive) / total)
    return raw / {"max": raw[alive].max(), "sum": total}[how]
