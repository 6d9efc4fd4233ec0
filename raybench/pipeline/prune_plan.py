"""What a selection works on: groups as counts, floors and ranking scopes, and one step's candidates in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raybench.errors import UserError
from raybench.pipeline.cost import Cost
from raybench.pipeline.records import Group, Groups

PROTECTED_SHARE = 0.1  # of the channels of every group, under protected-global


@dataclass(frozen=True)
class Strategy:
    """Which groups are ranked against one another, and what share of each always stays."""

    scope: str  # all | group | structure
    protected_share: float = 0.0


STRATEGIES = {
    "protected-global": Strategy("all", PROTECTED_SHARE),
    "global": Strategy("all"),
    "local": Strategy("group"),
    "isomorphic": Strategy("structure"),
}


@dataclass(frozen=True)
class Problem:
    """The fixed part of a selection. All arrays run over the groups."""

    groups: Groups
    cost: Cost
    sizes: np.ndarray
    floors: np.ndarray  # units that stay in every group
    scopes: np.ndarray  # groups with the same number are ranked against one another
    round_to: int
    protected_share: float
    ties_go: bool  # the library removes every unit up to the threshold, except where groups are ranked alone

    @classmethod
    def of(cls, groups: Groups, cost: Cost, strategy: str, round_to: int = 1) -> Problem:
        """`strategy`: a key of STRATEGIES. The floor is on channels: ceil(share x size), never below `least`."""
        if round_to < 1:
            raise UserError(f"round_to must be at least 1; found {round_to}")
        how = STRATEGIES[strategy]
        floors = [max(group.least, math.ceil(how.protected_share * group.size - 1e-9)) for group in groups]
        keys = {"all": lambda group: 0, "group": lambda group: group.name, "structure": _structure}[how.scope]
        named = [keys(group) for group in groups]
        order = {key: i for i, key in enumerate(dict.fromkeys(named))}
        scopes = np.array([order[key] for key in named])
        return cls(
            groups, cost, cost.sizes, np.array(floors), scopes, round_to, how.protected_share, how.scope != "group"
        )

    def goal(self, target: float) -> float:
        """MACs that a speed-up of `target` allows."""
        return self.cost.macs_base / target

    def rounded(self, counts: np.ndarray) -> np.ndarray:
        """`counts` (..., groups) to the nearest multiple of `round_to` above the floor; whole groups stay whole."""
        if self.round_to == 1:
            return counts
        r = self.round_to
        nearest = np.floor(counts / r + 0.5).astype(np.int64) * r
        least = -(-self.floors // r) * r
        found = np.minimum(np.maximum(nearest, least), self.sizes)
        return np.where(counts == self.sizes, self.sizes, found)

    def macs(self, counts: np.ndarray) -> np.ndarray:
        """MACs of the rounded counts, (..., groups) -> (...,)."""
        return self.cost.macs(self.rounded(counts))


def held_back(problem: Problem, counts: np.ndarray, scores: Sequence[np.ndarray | None]) -> str:
    """The groups that could save most beyond `counts`, in words, and those that can't because they have no score."""
    less = counts - np.eye(len(counts), dtype=np.int64) * (counts > 1)
    gain = float(problem.cost.macs(counts)) - problem.cost.macs(less)
    names = [problem.groups.groups[g].name for g in np.argsort(-gain, kind="stable") if scores[g] is not None]
    mute = [group.name for group, score in zip(problem.groups, scores, strict=True) if score is None]
    return f"groups {_some(names)}" + (f"; without a score: {_some(mute)}" if mute else "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@dataclass(frozen=True)
class Solution:
    """One target's answer: kept units of every group, ascending."""

    kept: tuple[np.ndarray, ...]
    reason: str | None
    steps: int


def _structure(group: Group) -> tuple[tuple[str, str, int], ...]:
    """Groups of the same kinds and sides of layers, in the same order, are isomorphic (Fang et al., ECCV 2024)."""
    return tuple((member.kind, member.side, member.folds) for member in group.members)


@dataclass(frozen=True)
class Step:
    """The units that one step removes, worst first, and the threshold that each group's units were held against."""

    group: np.ndarray  # (n,)
    unit: np.ndarray  # (n,)
    threshold: np.ndarray  # (groups,) NaN where a group took no part


def plan_step(
    problem: Problem,
    scores: Sequence[np.ndarray | None],
    alive: Sequence[np.ndarray],
    ratio: float,
    initial: dict[int, int],
) -> Step:
    """Remove down to `1 - ratio` of what each scope first ranked: all scores up to the threshold, clipped at floors.

    `initial` is filled on a scope's first step, as torch-pruning does. Ties go by group and unit index.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    threshold = np.full(len(problem.sizes), np.nan)
    room = np.array([a.sum() for a in alive]) - problem.floors
    for scope in range(problem.scopes.max() + 1):
        members = [g for g in np.nonzero(problem.scopes == scope)[0] if scores[g] is not None and room[g] > 0]
        if not members:
            continue
        living = Living(members, scores, alive)
        initial.setdefault(scope, living.count)
        n = living.count - int(initial[scope] * (1 - ratio))
        if n <= 0:
            continue
        limit = living.nth(n)
        threshold[members] = limit
        group, unit = living.up_to(limit)
        keep = _within_floor(group, room)
        share = np.arange(1, keep.sum() + 1) / keep.sum()
        parts.append((share, np.full(len(share), scope), group[keep], unit[keep]))
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Step(none, none, threshold)
    if len(parts) == 1:
        return Step(*parts[0][2:], threshold)
    share, scopes, group, unit = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((scopes, share))  # scopes advance side by side, each in its own order
    return Step(group[order], unit[order], threshold)


class Living:
    """Every living unit of some groups, side by side: by group, then by unit."""

    def __init__(
        self, members: Sequence[int], scores: Sequence[np.ndarray | None], alive: Sequence[np.ndarray]
    ) -> None:
        self._members = np.asarray(members)
        self._ends = np.cumsum([len(alive[g]) for g in members])
        living = np.concatenate([alive[g] for g in members])
        every = np.concatenate([scores[g] for g in members])
        self._score = np.where(living, every, np.inf)
        self.count = int(np.count_nonzero(living))

    def nth(self, n: int) -> float:
        """The n-th lowest score, n from 1."""
        return float(np.partition(self._score, n - 1)[n - 1])

    def up_to(self, limit: float) -> tuple[np.ndarray, np.ndarray]:
        """(group, unit) of all scores up to `limit`, lowest first, ties by group and unit."""
        low = np.nonzero(self._score <= limit)[0]
        return self._named(low[np.argsort(self._score[low], kind="stable")])

    def lowest(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(group, unit) of exactly the n lowest scores, ties by group and unit."""
        return self._named(np.argsort(self._score, kind="stable")[:n])

    def _named(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        which = np.searchsorted(self._ends, index, side="right")
        return self._members[which], index - np.concatenate([[0], self._ends])[which]


def _within_floor(group: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Which candidates (worst first) still fit above their group's floor; `room`: units each group may lose."""
    order = np.argsort(group, kind="stable")
    sorted_groups = group[order]
    first = np.searchsorted(sorted_groups, sorted_groups)
    nth = np.arange(len(group)) - first
    keep = np.empty(len(group), dtype=bool)
    keep[order] = nth < room[sorted_groups]
    return keep
