"""The selection problem: groups with floors and ranking scopes, and the ordered candidates of one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from raybench.errors import UserError
from raybench.groups.cost import Cost
from raybench.groups.records import Group, Groups

PROTECTED_SHARE = 0.1  # of the channels of every group are kept under protected-global


@dataclass(frozen=True)
class RankingRule:
    """Which groups are ranked against one another, and what share of each is always kept."""

    scope: str  # all | group | structure
    protected_share: float = 0.0
    ranks: bool = True  # false: widths are chosen by a knapsack (`optimal`)
    blocks: bool = False  # whether it may remove whole blocks


STRATEGIES = {
    "protected-global": RankingRule("all", PROTECTED_SHARE),
    "global": RankingRule("all"),
    "local": RankingRule("group"),
    "isomorphic": RankingRule("structure"),
    "optimal": RankingRule("all", ranks=False),
    "optimal-blocks": RankingRule("all", ranks=False, blocks=True),
}


@dataclass(frozen=True)
class Meter:
    """The cost that a selection brings down: of the whole network, and as a function of the kept counts."""

    base: float
    of: Callable[[np.ndarray], np.ndarray]  # (..., groups) -> (...,)

    @classmethod
    def macs(cls, cost: Cost) -> Meter:
        """Multiply-accumulates of one image."""
        return cls(cost.macs_base, cost.macs)

    @classmethod
    def params(cls, cost: Cost) -> Meter:
        """Parameters."""
        return cls(cost.params_base, cost.params)


@dataclass(frozen=True)
class Problem:
    """The part of a selection that doesn't depend on scores. All arrays run over the groups."""

    groups: Groups
    cost: Cost
    sizes: np.ndarray
    floors: np.ndarray  # units that every group keeps at least
    scopes: np.ndarray  # groups with the same number are ranked against one another
    round_to: int
    protected_share: float
    ties_go: bool  # pruningbench: all units tied at the threshold are removed, except where groups are ranked alone
    meter: Meter  # what the target is of

    @classmethod
    def of(cls, groups: Groups, cost: Cost, strategy: str, round_to: int = 1, meter: Meter | None = None) -> Problem:
        """Set up the problem for a `strategy` (a key of STRATEGIES); the target is of `meter`, MACs by default.

        The floor of a group is ceil(share x size) channels, never below `Group.least`. UserError for `round_to` < 1.
        """
        if round_to < 1:
            raise UserError(f"round_to must be at least 1; found {round_to}")
        rule = STRATEGIES[strategy]
        floors = [max(group.least, math.ceil(rule.protected_share * group.size - 1e-9)) for group in groups]
        keys = [SCOPE_KEYS[rule.scope](group) for group in groups]
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        scopes = np.array([number[key] for key in keys])
        share, ties_go, meter = rule.protected_share, rule.scope != "group", meter or Meter.macs(cost)
        return cls(groups, cost, cost.sizes, np.array(floors), scopes, round_to, share, ties_go, meter)

    def goal(self, target: float) -> float:
        """The cost that a `target`, base / pruned, allows."""
        return self.meter.base / target

    def rounded(self, counts: np.ndarray) -> np.ndarray:
        """Round `counts`, (..., groups), to multiples of `round_to` not below the floor; whole groups stay whole."""
        if self.round_to == 1:
            return counts
        r = self.round_to
        nearest = np.floor(counts / r + 0.5).astype(np.int64) * r
        least = -(-self.floors // r) * r
        found = np.minimum(np.maximum(nearest, least), self.sizes)
        return np.where(counts == self.sizes, self.sizes, found)

    def spent(self, counts: np.ndarray) -> np.ndarray:
        """The cost at the rounded counts, (..., groups) -> (...,)."""
        return self.meter.of(self.rounded(counts))


def held_back(problem: Problem, counts: np.ndarray, scores: Sequence[np.ndarray | None]) -> str:
    """Name the groups that could save most beyond `counts`, and those that can't be cut for lack of a score."""
    less = counts - np.eye(len(counts), dtype=np.int64) * (counts > 1)
    gain = float(problem.meter.of(counts)) - problem.meter.of(less)
    names = [problem.groups.groups[g].name for g in np.argsort(-gain, kind="stable") if scores[g] is not None]
    unscored = [group.name for group, score in zip(problem.groups, scores, strict=True) if score is None]
    return f"groups {_some(names)}" + (f"; without a score: {_some(unscored)}" if unscored else "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@dataclass(frozen=True)
class Solution:
    """The kept units of every group for one target."""

    kept: tuple[np.ndarray, ...]  # ascending, one array per group
    reason: str | None  # why the target was missed by more than 0.5 %
    steps: int


def _structure(group: Group) -> tuple[tuple[str, str, int], ...]:
    """Groups of the same kinds and sides of layers, in the same order, are isomorphic (Fang et al., ECCV 2024)."""
    return tuple((member.kind, member.side, member.folds) for member in group.members)


SCOPE_KEYS: dict[str, Callable[[Group], Hashable]] = {  # groups with equal keys are ranked against one another
    "all": lambda group: 0,
    "group": lambda group: group.name,
    "structure": _structure,
}


@dataclass(frozen=True)
class Step:
    """The units that one step removes, lowest score first, and the threshold of each group."""

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
    """Plan the removal down to `1 - ratio` of each scope's initial units: all scores up to a threshold, down to floors.

    `initial`: scope -> its number of units, filled on the scope's first step, as torch-pruning does. Ties are ordered
    by group and unit index.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    threshold = np.full(len(problem.sizes), np.nan)
    room = np.array([a.sum() for a in alive]) - problem.floors
    for scope in range(int(problem.scopes.max()) + 1):
        members = [g for g in map(int, np.nonzero(problem.scopes == scope)[0]) if scores[g] is not None and room[g] > 0]
        if not members:
            continue
        remaining = RemainingUnits(members, scores, alive)
        initial.setdefault(scope, remaining.count)
        n = remaining.count - int(initial[scope] * (1 - ratio))
        if n <= 0:
            continue
        limit = remaining.nth(n)
        threshold[members] = limit
        group, unit = remaining.up_to(limit)
        keep = _within_floor(group, room)
        share = np.arange(1, keep.sum() + 1) / keep.sum()
        parts.append((share, np.full(len(share), scope), group[keep], unit[keep]))
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Step(none, none, threshold)
    if len(parts) == 1:
        return Step(parts[0][2], parts[0][3], threshold)
    share, scopes, group, unit = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((scopes, share))  # scopes are interleaved by the share removed, each in its own order
    return Step(group[order], unit[order], threshold)


class RemainingUnits:
    """The scores of the remaining units of some groups, concatenated in order of `members`."""

    def __init__(
        self, members: Sequence[int], scores: Sequence[np.ndarray | None], alive: Sequence[np.ndarray]
    ) -> None:
        self._members = np.asarray(members)
        self._ends = np.cumsum([len(alive[g]) for g in members])
        remaining = np.concatenate([alive[g] for g in members])
        every = np.concatenate([score for g in members if (score := scores[g]) is not None])  # all members have scores
        self._score = np.where(remaining, every, np.inf)
        self.count = int(np.count_nonzero(remaining))

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
    """Which candidates (lowest score first) stay above their group's floor; `room`: units each group may lose."""
    order = np.argsort(group, kind="stable")
    sorted_groups = group[order]
    first = np.searchsorted(sorted_groups, sorted_groups)
    nth = np.arange(len(group)) - first
    keep = np.empty(len(group), dtype=bool)
    keep[order] = nth < room[sorted_groups]
    return keep
