"""Which channels go, for every speed-up asked for: schedules and strategies over scores and exact costs.

Nothing is cut here. A schedule plays its steps on paper, the last step is solved for the target and filled up with
single channels (`prune_fill`), and `surgery` makes the one physical cut later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from raybench.errors import NotSupported, UserError, unknown
from raybench.methods.evidence import gather
from raybench.methods.protocols import Calibration, Importance
from raybench.methods.scoring import Scorer
from raybench.pipeline.cost import Cost
from raybench.pipeline.prune_count import Counter, library_counts
from raybench.pipeline.prune_iterative import iterative
from raybench.pipeline.prune_library import library, library_voters
from raybench.pipeline.prune_plan import STRATEGIES, Problem, Solution
from raybench.pipeline.prune_progressive import at_ratio, progressive
from raybench.pipeline.records import Cut, Groups

SCHEDULES = ("progressive", "iterative", "one-shot")
PROTOCOLS = ("raybench", "pruningbench")


def select(
    model: nn.Module,
    example: Tensor,
    groups: Groups,
    criterion: Importance,
    targets: Sequence[float],
    *,
    strategy: str = "protected-global",
    schedule: str = "progressive",
    protocol: str = "raybench",
    calibration: Calibration | None = None,
    seed: int = 0,
    round_to: int = 1,
    steps: int = 400,
) -> dict[float, Cut]:
    """One cut for each target speed-up; a cut never depends on which other targets were asked for.

    `example`: an image as the model takes it, (1, channels, height, width). `steps`: of the progressive schedule and
    of the pruningbench protocol. `round_to`: kept units are multiples of it (a group that loses nothing aside).
    `calibration`: what data-driven criteria look at. `model` is not changed. UserError for unknown names and targets
    that are no speed-up.
    """
    for kind, name, known in (
        ("strategy", strategy, STRATEGIES), ("schedule", schedule, SCHEDULES), ("protocol", protocol, PROTOCOLS),
    ):  # fmt: skip
        if name not in known:
            raise UserError(unknown(kind, name, known))
    if bad := [target for target in targets if not target > 1]:
        raise UserError(f"a speed-up must be above 1; found {bad[0]}")
    cost = Cost.measure(model, example, groups)
    problem = Problem.of(groups, cost, strategy, round_to)
    voters = library_voters(groups) if protocol == "pruningbench" else groups
    scorer = _scorer(criterion, model, voters, calibration, seed)
    wanted = sorted(set(targets))
    base, count = library_counts(model, example, groups)
    if protocol == "pruningbench":
        solutions = library(problem, scorer, wanted, steps, base, count)
    elif schedule == "iterative":
        solutions = iterative(problem, scorer, wanted, criterion, model, calibration, seed)
    else:
        solutions = progressive(problem, scorer, wanted, steps if schedule == "progressive" else 1)
    return {target: _cut(problem, target, solutions[target], base, count) for target in wanted}


def select_ratio(
    model: nn.Module,
    example: Tensor,
    groups: Groups,
    criterion: Importance,
    ratio: float,
    *,
    strategy: str = "local",
    calibration: Calibration | None = None,
    seed: int = 0,
    round_to: int = 1,
) -> Cut:
    """One cut that removes the share `ratio` of the units (of each group, for `local`), whatever it saves.

    Its target is the speed-up that it came to. UserError for an unknown strategy or a ratio outside (0, 1).
    """
    if strategy not in STRATEGIES:
        raise UserError(unknown("strategy", strategy, STRATEGIES))
    if not 0 < ratio < 1:
        raise UserError(f"a ratio must lie between 0 and 1; found {ratio}")
    problem = Problem.of(groups, Cost.measure(model, example, groups), strategy, round_to)
    scorer = _scorer(criterion, model, groups, calibration, seed)
    base, count = library_counts(model, example, groups)
    cut = _cut(problem, 1.0, at_ratio(problem, scorer, ratio), base, count)
    return replace(cut, target=cut.speedup)


def _scorer(
    criterion: Importance, model: nn.Module, groups: Groups, calibration: Calibration | None, seed: int
) -> Scorer:
    """NotSupported when the criterion has nothing to say about this network."""
    scorer = Scorer(criterion, model, groups, gather(criterion, model, groups, calibration), seed)
    if all(scores is None for scores in scorer.scores()):
        lacks = f": it needs {criterion.requires} layers" if criterion.requires else ""
        raise NotSupported(f"{type(criterion).__name__} scores no channel of {type(model).__name__}{lacks}")
    return scorer


def _cut(problem: Problem, target: float, solution: Solution, base_tp: int, count: Counter) -> Cut:
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
