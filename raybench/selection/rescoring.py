"""Scores of a network that is really cut while a selection goes on, with evidence gathered again after each cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from raybench.groups import surgery
from raybench.groups.records import Groups
from raybench.scoring.scorer import Alive, Scoring

Scores = list[np.ndarray | None]  # one array (size,) per group; None where no layer is scored


class Regathered:
    """Scores of one copy of the network, from which units are cut as they are removed."""

    def __init__(self, scoring: Scoring, groups: Groups, scored: Callable[[Groups], Groups], whole: Scores) -> None:
        """`scored` leaves out the members that aren't scored. `whole`: the scores of the uncut network."""
        self._scoring, self._scored = scoring, scored
        self._groups, self._copied = groups, False
        self._alive, self._scores = [np.ones(group.size, dtype=bool) for group in groups], whole

    def scores(self, alive: Alive) -> Scores:
        """Scores with the remaining units `alive`, which shrink from call to call; entries of removed units are 0.

        Nothing is gathered when no unit was removed since the last call: the images are the same.
        """
        if all(np.array_equal(now, before) for now, before in zip(alive, self._alive, strict=True)):
            return self._scores
        self._cut(alive)
        found = self._scoring.scorer(self._scored(self._groups)).scores()
        self._scores = spread(found, alive)
        return self._scores

    def _cut(self, alive: Alive) -> None:
        """Cut the copy down to `alive`."""
        if not self._copied:
            self._scoring, self._copied = replace(self._scoring, model=copy.deepcopy(self._scoring.model)), True
        names = [group.name for group in self._groups]
        kept = {n: np.nonzero(now[was])[0] for n, now, was in zip(names, alive, self._alive, strict=True)}
        surgery.apply(self._scoring.model, self._groups, kept)
        self._groups = surgery.narrowed(self._groups, kept)
        self._alive = [now.copy() for now in alive]


def spread(found: Sequence[np.ndarray | None], alive: Alive) -> Scores:
    """Scores of a cut network's units at their places among the uncut network's units; 0 elsewhere."""
    scores: Scores = []
    for score, left in zip(found, alive, strict=True):
        if score is None:
            scores.append(None)
            continue
        whole = np.zeros(len(left))
        whole[left] = score
        scores.append(whole)
    return scores
