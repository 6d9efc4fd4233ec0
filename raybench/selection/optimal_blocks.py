"""The strategy `optimal-blocks`: which blocks go whole, chosen in one knapsack with the widths of what stays.

A block around which a shortcut goes has one choice more than the widths of its inner groups: removed. That loses the
importance of all of its units and saves its exact cost, its inner layers and those between inner and shared widths.
As in `optimal`, costs are taken around a known point, `scipy.optimize.milp` solves the knapsack, and the point moves
to the solution. Every set of blocks that a round proposes is judged by the widths that it allows; then single blocks
are removed and put back as long as more importance is kept. Of few blocks every set is judged. Which units stay is
settled afterwards, by `optimal` on the network without the blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from raybench.groups.records import Groups
from raybench.selection.meters import Spent
from raybench.selection.optimal import GAP, Knapsack, Scores
from raybench.selection.problem import Meter, Problem

Set = frozenset[int]  # of blocks

EVERY = 5  # blocks, at most, of which every set is judged
ROUNDS = 8  # of linearising the cost from one start
QUICK = 2  # of them, to judge a set of blocks
JUDGED = 160  # sets of blocks that are judged, at most
FINAL = 3  # of the best sets, whose widths are solved in full


@dataclass(frozen=True)
class Block:
    """A module that may go whole."""

    name: str
    inside: tuple[int, ...]  # the groups that lie in it with all of their members
    spent: Spent  # what it costs


def inner_groups(groups: Groups, block: str) -> tuple[int, ...]:
    """Indices of the groups whose members all lie at or below the module `block`."""
    return tuple(g for g, group in enumerate(groups) if all(m.layer.startswith(f"{block}.") for m in group.members))


@dataclass(frozen=True)
class BlockKnapsack:
    """Importance and cost as functions of the kept counts and of the blocks that go, for one set of scores."""

    problem: Problem
    scores: Scores
    blocks: tuple[Block, ...]

    def choices(self, goal: float) -> list[tuple[str, ...]]:
        """Sets of blocks, by name, that allow most importance at a cost of at most `goal`: the best first, last none.

        If no set of blocks comes that low, all of them.
        """
        solved = [gone for gone, _ in self.solutions(goal)] or [frozenset(range(len(self.blocks)))]
        sets = dict.fromkeys((*solved, frozenset()))
        return [tuple(self.blocks[b].name for b in sorted(gone)) for gone in sets]

    def solutions(self, goal: float) -> list[tuple[Set, np.ndarray]]:
        """The best sets of blocks, each with the counts of all groups, 0 of those that go; most importance first."""
        best = [gone for gone, worth in self._judged(goal) if worth > -np.inf][:FINAL]
        solved = [(gone, self._filled(gone, self.without(gone).solve(goal))) for gone in best]
        return sorted(solved, key=lambda one: -self.importance(one[1]))

    def importance(self, counts: np.ndarray) -> float:
        """Sum of the importance that `counts`, with 0 for groups that went, keep."""
        return float(sum(own[count] for own, count in zip(self._whole.worth, counts, strict=True)))

    def spent(self, counts: np.ndarray, gone: Set) -> np.ndarray:
        """Exact cost without the blocks `gone`, whatever `counts` say of their groups: (..., groups) -> (...,)."""
        return self.problem.meter.of(counts) - sum(self.blocks[b].spent(counts) for b in gone)

    def without(self, gone: Set) -> Knapsack:
        """The knapsack of the widths that are left without the blocks `gone`."""
        left, problem = self._left(gone), self.problem
        groups = tuple(problem.groups.groups[g] for g in left)

        def spent(counts: np.ndarray) -> np.ndarray:
            whole = np.broadcast_to(problem.sizes, (*counts.shape[:-1], len(problem.sizes))).copy()
            whole[..., left] = counts
            return self.spent(whole, gone)

        smaller = replace(
            problem, groups=Groups(groups), sizes=problem.sizes[left], floors=problem.floors[left],
            scopes=problem.scopes[left], meter=Meter(problem.meter.base, spent),
        )  # fmt: skip
        alive = [np.ones(size, dtype=bool) for size in smaller.sizes]
        return Knapsack.of(smaller, [self.scores[g] for g in left], alive)

    @cached_property
    def _whole(self) -> Knapsack:
        return self.without(frozenset())

    def _left(self, gone: Set) -> np.ndarray:
        """Indices of the groups that stay."""
        inner = {g for b in gone for g in self.blocks[b].inside}
        return np.array([g for g in range(len(self.problem.sizes)) if g not in inner], dtype=np.int64)

    def _filled(self, gone: Set, counts: np.ndarray) -> np.ndarray:
        whole = np.zeros(len(self.problem.sizes), dtype=np.int64)
        whole[self._left(gone)] = counts
        return whole

    def _judged(self, goal: float) -> list[tuple[Set, float]]:
        """Sets of blocks and the importance that each allows, the most first; of equal ones, the fewest blocks."""
        known: dict[Set, float] = {}

        def judge(gone: Set) -> float:
            if gone not in known and len(known) < JUDGED:
                known[gone] = self._worth(gone, goal)
            return known.get(gone, -np.inf)

        size = len(self.blocks)
        if size <= EVERY:
            for count in range(size + 1):
                for some in itertools.combinations(range(size), count):
                    judge(frozenset(some))
        else:
            for gone in (*self._proposed(goal), frozenset(), frozenset(range(size))):
                judge(gone)
            self._improve(judge, max(known, key=known.__getitem__))
        return sorted(known.items(), key=lambda one: (-one[1], len(one[0]), sorted(one[0])))

    def _improve(self, judge: Callable[[Set], float], now: Set) -> None:
        """Judge sets that differ from the best in one block, or in two of which one goes, until none is better."""
        while True:
            single = [now ^ {b} for b in range(len(self.blocks))]
            best = max(single, key=judge)
            if judge(best) <= judge(now):
                swaps = [(now - {a}) | {b} for a in now for b in range(len(self.blocks)) if b not in now]
                best = max(swaps, key=judge, default=now)
            if judge(best) <= judge(now):
                return
            now = best

    def _worth(self, gone: Set, goal: float) -> float:
        """The importance that the widths without the blocks `gone` keep within `goal`, near the best; -inf for none."""
        sack = self.without(gone)
        if float(sack.spent(sack.least)) > goal:
            return -np.inf
        return sack.quickly(goal, QUICK)

    def _proposed(self, goal: float) -> Iterator[Set]:
        """The sets of blocks of the rounds, from a few starts."""
        whole = self._whole
        starts = [whole.most, (whole.least + whole.most) // 2, whole.least]
        for start, gone in itertools.product(starts, (frozenset(), frozenset(range(len(self.blocks))))):
            counts, now, seen = start, gone, set()
            for _ in range(ROUNDS):
                counts, now = self._linear(counts, now, goal)
                if (key := (tuple(counts), now)) in seen:
                    break
                seen.add(key)
                yield now

    def _linear(self, point: np.ndarray, gone: Set, goal: float) -> tuple[np.ndarray, Set]:
        """The knapsack's solution with costs as they are around `point` and without the blocks `gone`.

        Groups of a block that goes keep the count that they have at `point`, for the next round.
        """
        table = self._choices(point, gone)
        base = float(self.spent(point, frozenset(range(len(self.blocks)))))
        columns, places = len(table.worth), np.arange(len(table.worth))
        rows = np.where(table.group >= 0, table.group, 0)
        present = csr_array(((table.group >= 0).astype(float), (rows, places)), shape=(len(point), columns)).tolil()
        for b, block in enumerate(self.blocks):  # its groups choose a width, or it goes
            place = columns - len(self.blocks) + b
            for g in block.inside:
                present[g, place] = 1.0
        scale = max(float(np.abs(table.cost).max()), 1e-30)
        found = milp(
            -table.worth / max(float(np.abs(table.worth).max()), 1e-30),
            integrality=np.ones(columns),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(csr_array(present), 1, 1),
                LinearConstraint(table.cost[None] / scale, ub=(goal - base - table.fixed) / scale),
            ],
            options={"mip_rel_gap": GAP},
        )
        if found.x is None:  # the line promises less than can be saved
            return self._whole.least.copy(), frozenset(range(len(self.blocks)))
        counts = point.copy()
        for place in map(int, np.nonzero(found.x[: columns - len(self.blocks)] > 0.5)[0]):
            counts[table.group[place]] = table.width[place]
        return counts, frozenset(map(int, np.nonzero(found.x[columns - len(self.blocks) :] > 0.5)[0]))

    def _choices(self, point: np.ndarray, gone: Set) -> _Choices:
        """Every width of every group, then every block's removal, with what each is worth and costs around `point`."""
        every, whole = frozenset(range(len(self.blocks))), self._whole
        owner = {g: b for b, block in enumerate(self.blocks) for g in block.inside}
        group, width, worth, cost = [], [], [], []
        for g in range(len(point)):
            choices = whole.widths(g)
            rows = np.repeat(point[None], len(choices), axis=0)
            rows[:, g] = choices
            of: Spent = self.blocks[owner[g]].spent if g in owner else lambda counts: self.spent(counts, gone)
            group.append(np.full(len(choices), g))
            width.append(choices)
            worth.append(whole.worth[g][choices])
            cost.append(of(rows) - float(of(point)))
        own = np.array([float(block.spent(point)) for block in self.blocks])  # saved where the block goes
        none = np.full(len(every), -1)
        return _Choices(
            np.concatenate([*group, none]), np.concatenate([*width, none]),
            np.concatenate([*worth, np.zeros(len(every))]), np.concatenate([*cost, -own]), float(own.sum()),
        )  # fmt: skip


@dataclass(frozen=True)
class _Choices:
    """The columns of a knapsack: widths of groups, then removals of blocks."""

    group: np.ndarray  # -1 for a removal
    width: np.ndarray
    worth: np.ndarray
    cost: np.ndarray  # beside what all blocks cost at the point
    fixed: float  # that cost


def weighed(
    problem: Problem, scores: Scores, names: Sequence[str], spent: Callable[[str], Spent | None]
) -> BlockKnapsack:
    """The knapsack of those modules of `names` that can be weighed: a scored group lies inside, the cost is known.

    Args:
        problem: the selection in the whole network.
        scores: of its groups.
        names: modules that may go whole, none inside another.
        spent: a module's name -> what it costs as a function of the counts; None where that isn't known.
    """
    found = []
    for name in names:
        inside = inner_groups(problem.groups, name)
        cost = spent(name) if any(scores[g] is not None for g in inside) else None
        if cost is not None:
            found.append(Block(name, inside, cost))
    return BlockKnapsack(problem, scores, tuple(found))
