"""From a criterion to one score a unit: scatter to units, reduce over a group's layers, normalise over what is left.

A schedule scores again and again while units disappear on paper. Only what a removal touches is scored anew:
the *other* side of each layer that lost channels, and for criteria that compare channels the side itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from raybench.errors import StageError
from raybench.methods.evidence import Evidence
from raybench.methods.protocols import ElementwiseImportance, Importance, PairwiseImportance
from raybench.methods.scoring_asked import AskedAgain, AskedOnce
from raybench.methods.scoring_pairs import RunningPairs
from raybench.methods.scoring_sums import RunningSums, shared_positions
from raybench.pipeline.records import Groups

Alive = Sequence[np.ndarray]  # one bool array (size,) a group


class Scorer:
    """Scores every group's units under one criterion; remembers what it has computed between calls."""

    def __init__(
        self, criterion: Importance, model: nn.Module, groups: Groups, evidence: Evidence | None = None, seed: int = 0
    ) -> None:
        """`model` and `evidence` must stay as they are while this scorer is in use."""
        self.groups, self.normalize = groups, criterion.normalize
        self._raw = _follower(criterion, groups)(criterion, model, groups, evidence, seed)
        self._start()

    def scores(self, alive: Alive | None = None) -> list[np.ndarray | None]:
        """Normalised score of each unit, one float64 array (size,) a group; None where no layer has a say.

        `alive`: units still there (None: all); entries of dead units mean nothing. StageError names a group whose
        scores aren't finite.
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
        """One step on the whole network: each group's units from worst to best, None where no layer has a say."""
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


def _follower(criterion: Importance, groups: Groups) -> type[RunningSums] | type[AskedAgain]:
    """How raw scores follow removals: by subtraction, by asking the criterion again, or not at all."""
    if criterion.needs in ("nothing", "activations"):
        return AskedOnce
    if type(criterion).layer_scores is PairwiseImportance.layer_scores:
        return RunningPairs
    plain_sum = type(criterion).layer_scores is ElementwiseImportance.layer_scores
    linear = plain_sum and criterion.reduce in ("mean", "sum")
    return RunningSums if linear and not shared_positions(groups) else AskedAgain


def normalised(raw: np.ndarray, alive: np.ndarray, total: float, how: str) -> np.ndarray:
    """`raw` on a scale that compares across groups; `total`: sum over the living. A group of zeros stays zeros."""
    if how == "none" or total == 0:
        return raw.copy()
    if how == "lamp":  # s_u / sum of all s_v >= s_u (Lee et al., LAMP, section 2), over units instead of weights
        living = np.nonzero(alive)[0]
        order = living[np.argsort(raw[living], kind="stable")]
        scores = np.zeros_like(raw)
        scores[order] = raw[order] / np.cumsum(raw[order][::-1])[::-1]
        return scores
    if how == "mean":
        return raw * (np.count_nonzero(alive) / total)
    return raw / {"max": raw[alive].max(), "sum": total}[how]
