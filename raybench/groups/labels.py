"""Labels of channels: which positions of which axes are the same channel, and which can't be removed."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np


class Open(enum.Enum):
    """An axis without labels."""

    FIXED = "fixed"  # its positions can't be removed: the batch, pixels, tokens, numbers written in code
    ANY = "any"  # all positions are equal and it is as long as what it meets: a broadcast value


FIXED, ANY = Open.FIXED, Open.ANY
Axis = np.ndarray | Open  # one label for each position: int64; label 0 can't be removed


@dataclass
class Labels:
    """A growing set of labels; some are united, some pinned."""

    count: int = 1  # label 0 is pinned
    united: list[np.ndarray] = field(default_factory=list)  # (2, m) pairs
    reasons: list[tuple[np.ndarray, str]] = field(default_factory=list)  # (labels, why) in the order of pinning

    def fresh(self, size: int) -> np.ndarray:
        """New labels, one for each position."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def unite(self, left: np.ndarray, right: np.ndarray) -> None:
        """Position by position, both labels are the same channel from now on."""
        differ = left != right
        if differ.any():
            self.united.append(np.stack([left[differ], right[differ]]))

    def pin(self, axis: Axis, why: str) -> None:
        """Keep the channels of `axis`; `why` is recorded if it is the first reason."""
        if isinstance(axis, np.ndarray):
            self.reasons.append((np.unique(axis), why))

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """(class of each label, whether the class is pinned); united labels have one class, its lowest label."""
        pairs = np.concatenate(self.united, axis=1) if self.united else np.zeros((2, 0), dtype=np.int64)
        lowest = united(self.count, pairs)
        whole = np.zeros(self.count, dtype=bool)
        whole[0] = True
        for labels, _ in self.reasons:
            whole[lowest[labels]] = True
        return lowest, whole[lowest]

    def reason(self, axis: np.ndarray, classes: np.ndarray) -> str:
        """Why a channel of `axis` was pinned first; empty if none was."""
        here = set(classes[axis].tolist())
        return next((why for labels, why in self.reasons if here.intersection(classes[labels].tolist())), "")


def united(count: int, pairs: np.ndarray) -> np.ndarray:
    """For each of `count` labels the lowest that it is the same as, directly or through others, by `pairs` (2, m)."""
    lowest = np.arange(count)
    while True:
        before = lowest.copy()
        least = np.minimum(lowest[pairs[0]], lowest[pairs[1]])
        for side in pairs:
            np.minimum.at(lowest, lowest[side], least)
            np.minimum.at(lowest, side, least)
        lowest = lowest[lowest]
        if (lowest == before).all():
            return lowest
