"""Networks of known, linear cost and scores that never change, for tests of selection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raybench.groups.records import Group, Groups, Member
from raybench.selection.problem import Problem


@dataclass
class Linear:
    """A network whose every unit costs the same wherever the others are."""

    each: np.ndarray  # MACs of one unit of each group
    sizes: np.ndarray
    fixed: float = 0.0

    @property
    def macs_base(self) -> float:
        return float(self.macs(self.sizes))

    @property
    def widths(self) -> Linear:
        return self

    @property
    def columns(self) -> dict[tuple[str, str], int]:
        return {(name, "out"): g for g, name in enumerate("abcdefgh")}

    def at(self, counts: np.ndarray) -> np.ndarray:
        """Every group is the outputs of one layer."""
        return np.asarray(counts, dtype=float)

    def macs(self, counts: np.ndarray) -> np.ndarray:
        return np.asarray(counts) @ self.each + self.fixed


class Fixed:
    """Scores that never change; it keeps what it was asked with."""

    def __init__(self, *scores) -> None:
        self.found, self.asked = [None if s is None else np.array(s, dtype=float) for s in scores], []

    def scores(self, alive):
        self.asked.append([a.copy() for a in alive])
        return list(self.found)


def group(name: str, size: int, least: int = 1, kind: str = "conv", folds: int = 1) -> Group:
    each = np.arange(size)
    return Group(name, size, (Member(name, kind, "out", size, each, each, folds),), least=least)


def problem_of(sizes, each, strategy="global", round_to=1, fixed=0.0, least=1) -> Problem:
    groups = Groups(tuple(group(name, size, least) for name, size in zip("abcdefgh", sizes, strict=False)))
    return Problem.of(groups, Linear(np.array(each, dtype=float), np.array(sizes), fixed), strategy, round_to)


def whole(problem: Problem) -> list[np.ndarray]:
    return [np.ones(size, dtype=bool) for size in problem.sizes]


def pairs(step) -> list[tuple[int, int]]:
    return list(zip(step.group.tolist(), step.unit.tolist(), strict=True))
