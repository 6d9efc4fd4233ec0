"""The strategy `optimal`: widths that keep the most importance under the target, as a knapsack instead of a ranking.

As in HALP (Shen et al., NeurIPS 2022) and MDP, each group chooses one width, worth the sum of the scores of the units
that it keeps. A cost such as MACs multiplies widths of neighbours, so that no width has a cost of its own. Each round
takes the costs of all widths of a group with the other groups at a known point, solves the knapsack by
`scipy.optimize.milp`, and moves the point to the solution, until it stays; several points are begun at. What a round
gets wrong is mended by the exact cost: single units go until the target is met, then units are exchanged, and pairs of
widths, as long as importance grows. The end is a local optimum, not a proven one. Of what was seen, the cut is what
keeps most and meets the target within 0.5 %. Blocks are never removed whole; `optimal-blocks` does so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from raybench.scoring.scorer import Scorer, Scoring
from raybench.selection.exact_end import CLOSE, ENOUGH, fill
from raybench.selection.iterative import RESCORINGS, rescored
from raybench.selection.problem import Problem, Solution
from raybench.selection.progressive import SimulatedPruning, exhausted, kept_of

ROUNDS = 12  # of linearising the cost
STARTS = 12  # groups, at most, that a start has at an end of its widths
WIDTHS = 65  # that one group chooses from, at most; single units are settled by the exchanges
EXCHANGES = 400  # at most, after the knapsack
ROWS = 100_000  # of pairs of widths tried at a time, about
GAP = 1e-3  # of the solver: exchanges do the rest

Scores = Sequence[np.ndarray | None]


@dataclass(frozen=True)
class Knapsack:
    """Importance and cost as functions of the kept counts, for one set of scores."""

    problem: Problem
    worth: tuple[np.ndarray, ...]  # (size + 1,) importance of the best n units, one array a group
    least: np.ndarray  # (groups,) counts between which each group may choose
    most: np.ndarray

    @classmethod
    def of(cls, problem: Problem, scores: Scores, alive: Sequence[np.ndarray]) -> Knapsack:
        """With the units that are `alive`; groups without a score keep them all."""
        worth, most = [], np.array([int(left.sum()) for left in alive])
        for score, left in zip(scores, alive, strict=True):
            own = np.zeros(int(left.sum())) if score is None else np.sort(score[left].astype(float))[::-1]
            worth.append(np.concatenate([[0.0], np.cumsum(own)]))
        r = problem.round_to
        least = np.minimum(-(-problem.floors // r) * r, most)
        fixed = np.array([score is None for score in scores])
        return cls(problem, tuple(worth), np.where(fixed, most, least), most)

    def importance(self, counts: np.ndarray) -> np.ndarray:
        """Sum of the kept importance: (..., groups) -> (...,)."""
        return np.sum([own[counts[..., g]] for g, own in enumerate(self.worth)], axis=0)

    def spent(self, counts: np.ndarray) -> np.ndarray:
        """Exact cost: (..., groups) -> (...,)."""
        return self.problem.meter.of(counts)

    def widths(self, g: int) -> np.ndarray:
        """The counts that group `g` chooses from, rising."""
        r = self.problem.round_to
        every = np.arange(self.least[g], self.most[g] + 1)
        every = every[(every % r == 0) | (every == self.most[g])]
        thin = -(-len(every) // WIDTHS)
        return np.unique(np.concatenate([every[:1], every[::-1][::thin]]))

    def solve(self, goal: float) -> np.ndarray:
        """The counts of most importance that cost at most `goal`, which the least counts do."""
        return self.solutions(goal)[0]

    def solutions(self, goal: float) -> list[np.ndarray]:
        """What the rounds found, the most importance first, and mended until no two groups can do better."""
        seen: set[tuple[int, ...]] = set()
        rounds = itertools.chain.from_iterable(self._from(point, goal, seen) for point in self._starts(goal))
        found = sorted(rounds, key=lambda one: -float(self.importance(one)))
        while (better := self._paired(found[0], goal)) is not None:
            found.insert(0, self._exchanged(better, goal))
        return found

    def solve_near(self, goal: float) -> np.ndarray | None:
        """The counts of most importance of those seen that cost `goal` within 0.5 %; None if there are none."""
        near = [one for counts in self.solutions(goal) if (one := self._near(counts, goal)) is not None]
        return max(near, key=lambda one: float(self.importance(one)), default=None)

    def quickly(self, goal: float, rounds: int) -> float:
        """The importance that some rounds from one share of all groups lead to, within `goal`, without exchanges."""
        point, best = self._even(goal), -math.inf
        for _ in range(rounds):
            point = self._linear(point, goal)
            best = max(best, float(self.importance(self._within(point, goal))))
        return best

    def _from(self, point: np.ndarray, goal: float, seen: set[tuple[int, ...]]) -> Iterator[np.ndarray]:
        """What the rounds that begin at `point` lead to, within `goal`; nothing that was `seen` before."""
        for _ in range(ROUNDS):
            point = self._linear(point, goal)
            if tuple(point) in seen:
                return
            seen.add(tuple(point))
            yield self._exchanged(self._within(point, goal), goal)

    def _starts(self, goal: float) -> Iterator[np.ndarray]:
        """Points to begin at: one share of all groups, the whole network, and one group at either end of its widths."""
        even = self._even(goal)
        yield from (even, self.most)
        for g in range(0, len(even), -(-len(even) // STARTS)):
            for width in (self.most[g], self.least[g]):
                yield np.where(np.arange(len(even)) == g, width, even)

    def _even(self, goal: float) -> np.ndarray:
        """The widest counts within `goal` that are one share of every group."""
        shares = np.linspace(0, 1, 257)[:, None]
        rows = np.floor(self.least + shares * (self.most - self.least)).astype(np.int64)
        fits = np.nonzero(self.spent(rows) <= goal)[0]
        return rows[int(fits[-1])]

    def _linear(self, point: np.ndarray, goal: float) -> np.ndarray:
        """The knapsack's solution with every group's costs as they are with the other groups at `point`."""
        choices = [self.widths(g) for g in range(len(point))]
        here = float(self.spent(point))
        costs, groups = [], []
        for g, widths in enumerate(choices):
            rows = np.repeat(point[None], len(widths), axis=0)
            rows[:, g] = widths
            costs.append(self.spent(rows) - here)
            groups.append(np.full(len(widths), g))
        cost, group = np.concatenate(costs), np.concatenate(groups)
        worth = np.concatenate([own[widths] for own, widths in zip(self.worth, choices, strict=True)])
        scale = max(float(np.abs(cost).max()), 1e-30)
        one_each = csr_array((np.ones(len(group)), (group, np.arange(len(group)))))
        budget = LinearConstraint(cost[None] / scale, ub=(goal - here) / scale)
        found = milp(
            -worth / max(float(np.abs(worth).max()), 1e-30),
            integrality=np.ones(len(group)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), budget],
            options={"mip_rel_gap": GAP},
        )
        if found.x is None:  # the line promises less than the least counts save
            return self.least.copy()
        chosen = np.nonzero(found.x > 0.5)[0]
        return np.concatenate(choices)[chosen]

    def _within(self, counts: np.ndarray, goal: float) -> np.ndarray:
        """`counts` with units taken out, the least importance for its cost first, until they cost at most `goal`."""
        while (over := float(self.spent(counts)) - goal) > 0:
            rows = self._steps(counts, -1)
            saved = np.minimum(float(self.spent(counts)) - self.spent(rows), over)
            lost = float(self.importance(counts)) - self.importance(rows)
            counts = rows[int(np.argmin(lost / np.maximum(saved, 1e-30)))]
        return counts

    def _exchanged(self, counts: np.ndarray, goal: float) -> np.ndarray:
        """`counts` with units added and exchanged as long as importance grows within `goal`."""
        for _ in range(EXCHANGES):
            wider = self._steps(counts, 1)
            rows = np.concatenate([wider, *(self._paid(wider, h, goal) for h in range(len(counts)))])
            rows = rows[self.spent(rows) <= goal]
            if not len(rows):
                break
            best = rows[int(np.argmax(self.importance(rows)))]
            if self.importance(best) <= self.importance(counts) * (1 + 1e-12):
                break
            counts = best
        return counts

    def _paid(self, wider: np.ndarray, h: int, goal: float) -> np.ndarray:
        """Each row with as many units of group `h` fewer as pay for it, and one step more: costs may be uneven."""
        r = self.problem.round_to
        unit = np.eye(wider.shape[1], dtype=np.int64)[h] * r
        each = np.maximum(self.spent(wider) - self.spent(np.maximum(wider - unit, 1)), 1e-30)
        wanted = np.maximum(self.spent(wider) - goal, 0) / each
        steps = np.ceil(np.minimum(wanted, self.most[h])).astype(np.int64)
        rows = np.concatenate([wider - steps[:, None] * unit, wider - (steps[:, None] + 1) * unit])
        return rows[rows[:, h] >= self.least[h]]

    def _near(self, counts: np.ndarray, goal: float) -> np.ndarray | None:
        """What keeps most of all that costs `goal` within 0.5 % and differs in two groups at most."""
        r, units = self.problem.round_to, np.eye(len(counts), dtype=np.int64)
        some = np.concatenate([counts[None], self._steps(counts, -1), self._steps(counts, 1)])
        rows = [some]
        for h in range(len(counts)):
            each = np.abs(self.spent(some) - self.spent(np.maximum(some - units[h], 1)))
            wanted = (goal - self.spent(some)) / np.maximum(each, 1e-30) / r
            for steps in (np.floor(wanted), np.ceil(wanted)):
                moved = np.clip(steps, -self.most[h], self.most[h]).astype(np.int64) * r
                rows.append(some + moved[:, None] * units[h])
        found = np.concatenate(rows)
        found = found[((found >= self.least) & (found <= self.most)).all(axis=1)]
        met = goal / self.spent(found) - 1
        found = found[(met >= -CLOSE) & (met <= ENOUGH)]  # more cost keeps more: no advantage over rankings
        return found[int(np.argmax(self.importance(found)))] if len(found) else None

    def _paired(self, counts: np.ndarray, goal: float) -> np.ndarray | None:
        """The best counts in which two groups have any widths and the others stay; None if none keeps more."""
        size = len(counts)
        few = max(3, math.isqrt(ROWS // max(1, size * (size - 1) // 2)))
        choices = [widths[np.linspace(0, len(widths) - 1, few).astype(int)] for widths in map(self.widths, range(size))]
        best, most = None, float(self.importance(counts)) * (1 + 1e-9)
        for g, h in itertools.combinations(range(size), 2):
            pair = np.stack(np.meshgrid(np.unique(choices[g]), np.unique(choices[h])), axis=-1).reshape(-1, 2)
            rows = np.repeat(counts[None], len(pair), axis=0)
            rows[:, [g, h]] = pair
            kept = self.importance(rows)
            rows, kept = rows[kept > most], kept[kept > most]
            fits = self.spent(rows) <= goal
            if fits.any():
                best, most = rows[fits][int(np.argmax(kept[fits]))], float(kept[fits].max())
        return best

    def _steps(self, counts: np.ndarray, sign: int) -> np.ndarray:
        """All rows that differ from `counts` by one step of one group, up or down."""
        r = self.problem.round_to
        to = counts // r * r + r if sign > 0 else -(-counts // r) * r - r
        new = np.clip(to, self.least, self.most)
        rows = np.repeat(counts[None], len(counts), axis=0)
        rows[np.arange(len(counts)), np.arange(len(counts))] = new
        return rows[new != counts]


def optimal(
    problem: Problem, scorer: Scorer, targets: Sequence[float], scoring: Scoring, stages: int = 1
) -> dict[float, Solution]:
    """Solve each target independently, in one knapsack; with more `stages` the network is cut and scored in between."""
    whole = scorer.scores()
    return {target: _solve(problem, whole, target, scoring, stages) for target in targets}


def _solve(problem: Problem, scores: Scores, target: float, scoring: Scoring, stages: int) -> Solution:
    simulated = SimulatedPruning(problem)
    for stage in range(1, stages + 1):
        now = scores if stage == 1 else rescored(problem, simulated, scoring)
        sack, goal = Knapsack.of(problem, now, simulated.alive), problem.goal(target ** (stage / stages))
        order = simulated.order(now)
        if float(sack.spent(sack.least)) > goal:
            _remove(simulated, order, sack.least)
            return exhausted(simulated, now, target, stage)
        if stage < stages:
            _remove(simulated, order, sack.solve(goal))
    counts, reason = sack.solve_near(goal), None
    if counts is None:
        counts = sack.solve(goal)
        counts, reason = fill(problem, counts[None], order, now, _thresholds(now, order, counts), target)
    return Solution(kept_of(order, counts), reason, stages)


def _remove(simulated: SimulatedPruning, order: Sequence[np.ndarray], counts: np.ndarray) -> None:
    """Remove the first units of each group's order, down to `counts`."""
    for g, (units, count) in enumerate(zip(order, counts, strict=True)):
        gone = [unit for unit in units[: len(units) - count] if simulated.alive[g][unit]]
        simulated.remove(np.full(len(gone), g), np.array(gone, dtype=np.int64))


def _thresholds(scores: Scores, order: Sequence[np.ndarray], counts: np.ndarray) -> np.ndarray:
    """(groups,) score of the last unit that went; NaN where none did."""
    found = np.full(len(counts), np.nan)
    for g, (score, units, count) in enumerate(zip(scores, order, counts, strict=True)):
        if score is not None and count < len(units):
            found[g] = score[units[len(units) - count - 1]]
    return found


STAGES = {"progressive": 1, "one-shot": 1, "iterative": RESCORINGS}  # schedule -> knapsacks for one target
