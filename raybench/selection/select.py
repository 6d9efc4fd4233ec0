"""Selects the channels to remove for every requested speed-up, by scores and exact costs. Nothing is cut here.

A schedule simulates its steps, the last step is solved for the target and adjusted by single channels (`exact_end`),
and `surgery` makes the one physical cut later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from raybench.catalogue import needs_images
from raybench.errors import NotSupported, UserError, unknown
from raybench.groups.cost import Cost
from raybench.groups.library_count import Counter, library_counts
from raybench.groups.records import Groups
from raybench.scoring.scorer import Scorer, Scoring
from raybench.selection.iterative import iterative
from raybench.selection.optimal import STAGES, optimal
from raybench.selection.problem import STRATEGIES, Meter, Problem, Solution
from raybench.selection.progressive import at_ratio, progressive
from raybench.selection.pruningbench import library, library_members
from raybench.selection.records import Cut
from raybench.selection.rescoring import Regathered

SCHEDULES = ("progressive", "iterative", "one-shot")
PROTOCOLS = ("raybench", "pruningbench")


def select(
    scoring: Scoring,
    example: Tensor,
    groups: Groups,
    targets: Sequence[float],
    *,
    strategy: str = "protected-global",
    schedule: str = "progressive",
    protocol: str = "raybench",
    round_to: int = 1,
    steps: int = 400,
    meter: Callable[[Cost], Meter] = Meter.macs,
) -> dict[float, Cut]:
    """Select one cut for each target; a cut doesn't depend on the other targets.

    Args:
        scoring: the criterion and the network, which is not changed.
        example: an image as the network takes it, (1, channels, height, width).
        groups: the network's prunable groups.
        targets: requested cost of the network / cost of the cut one, each above 1; speed-ups where the cost is MACs.
        strategy: a key of `STRATEGIES`.
        schedule: one of `SCHEDULES`.
        protocol: one of `PROTOCOLS`.
        round_to: kept units are multiples of it (a group that loses nothing aside).
        steps: of the progressive schedule and of the pruningbench protocol.
        meter: the cost that the targets are of; protocol pruningbench knows MACs only.

    Returns:
        Target -> cut.

    Raises:
        UserError: an unknown name, or a target that is no speed-up.
        NotSupported: the criterion scores no channel of this network.
    """
    for kind, name, known in (
        ("strategy", strategy, STRATEGIES), ("schedule", schedule, SCHEDULES), ("protocol", protocol, PROTOCOLS),
    ):  # fmt: skip
        if name not in known:
            raise UserError(unknown(kind, name, known))
    if bad := [target for target in targets if not target > 1]:
        raise UserError(f"a speed-up must be above 1; found {bad[0]}")
    cost = Cost.measure(scoring.model, example, groups)
    problem = Problem.of(groups, cost, strategy, round_to, meter(cost))
    scorer = scorer_of(scoring, library_members(groups) if protocol == "pruningbench" else groups)
    wanted = sorted(set(targets))
    base, count = library_counts(scoring.model, example, groups)
    if protocol == "pruningbench":
        slow = needs_images(scoring.criterion.needs)
        source = Regathered(scoring, groups, library_members, scorer.scores()) if slow else scorer
        solutions = library(problem, source, wanted, steps, base, count, slow)
    elif not STRATEGIES[strategy].ranks:
        solutions = optimal(problem, scorer, wanted, scoring, STAGES[schedule])
    elif schedule == "iterative":
        solutions = iterative(problem, scorer, wanted, scoring)
    else:
        solutions = progressive(problem, scorer, wanted, steps if schedule == "progressive" else 1)
    return {target: cut_of(problem, target, solutions[target], base, count) for target in wanted}


def select_ratio(
    scoring: Scoring, example: Tensor, groups: Groups, ratio: float, *, strategy: str = "local", round_to: int = 1
) -> Cut:
    """Select one cut that removes the share `ratio` of the units (of each group, for `local`), whatever it saves.

    Args:
        scoring: the criterion and the network, which is not changed.
        example: an image as the network takes it, (1, channels, height, width).
        groups: the network's prunable groups.
        ratio: share of the units that each scope loses, in (0, 1).
        strategy: a key of `STRATEGIES`.
        round_to: kept units are multiples of it.

    Returns:
        The cut; its target is the speed-up that it achieves.

    Raises:
        UserError: an unknown strategy, or a ratio outside (0, 1).
        NotSupported: the criterion scores no channel of this network.
    """
    if strategy not in STRATEGIES:
        raise UserError(unknown("strategy", strategy, STRATEGIES))
    if not 0 < ratio < 1:
        raise UserError(f"a ratio must lie between 0 and 1; found {ratio}")
    problem = Problem.of(groups, Cost.measure(scoring.model, example, groups), strategy, round_to)
    scorer = scorer_of(scoring, groups)
    base, count = library_counts(scoring.model, example, groups)
    cut = cut_of(problem, 1.0, at_ratio(problem, scorer, ratio), base, count)
    return replace(cut, target=cut.speedup)


def scorer_of(scoring: Scoring, groups: Groups) -> Scorer:
    """A scorer of `groups`; NotSupported when the criterion scores none of the network's channels."""
    scorer, criterion = scoring.scorer(groups), scoring.criterion
    if all(scores is None for scores in scorer.scores()):
        lacks = f": it needs {criterion.requires} layers" if criterion.requires else ""
        raise NotSupported(f"{type(criterion).__name__} scores no channel of {type(scoring.model).__name__}{lacks}")
    return scorer


def cut_of(problem: Problem, target: float, solution: Solution, base_tp: int, count: Counter) -> Cut:
    cost, counts = problem.cost, np.array([len(units) for units in solution.kept])
    macs = round(float(cost.macs(counts)))
    return Cut(
        kept={group.name: tuple(map(int, units)) for group, units in zip(problem.groups, solution.kept, strict=True)},
        target=target,
        speedup=cost.macs_base / macs,
        macs_base=cost.macs_base,
        macs=macs,
        params_base=cost.params_base,
        params=round(float(cost.params(counts))),
        macs_tp_base=base_tp,
        macs_tp=count(solution.kept),
        reason=solution.reason,
        steps=solution.steps,
    )
