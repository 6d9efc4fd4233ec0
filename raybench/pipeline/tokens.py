"""Cells that remove tokens: counts for each speed-up, and the reduced network; other stages are those of all."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

from torch import Tensor, nn

from raybench.groups.cost import params_of
from raybench.pipeline.asked import TimedCuts
from raybench.pipeline.exclusive import Machine
from raybench.pipeline.network import example_of
from raybench.selection.records import Cut
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task
from raybench.tokens.attached import reduced, reducer_named
from raybench.tokens.cost import TokenCost
from raybench.tokens.network import TokenViT
from raybench.tokens.reducer import TokenReducer
from raybench.tokens.shape import Counts
from raybench.tokens.target import find_counts


def token_cuts(trials: Sequence[Trial], model: nn.Module, example: Tensor, machine: Machine) -> TimedCuts:
    """Find how many tokens each block removes, for trials that differ in speed-up only; a step is one such search.

    Args:
        trials: of one method.
        model: the dense network; it isn't changed.
        example: one image, (1, channels, height, width).
        machine: on which no other process computes while the search is timed.

    Raises:
        NotSupported: the network is no plain vision transformer.
    """
    reducer = reducer_named(trials[0].importance.name, trials[0].importance.params)
    cost = TokenCost.measure(model, example)
    cuts = {trial.speedup: _cut(reducer, cost, trial.speedup) for trial in trials}
    seconds, reason = machine.timed(lambda: _seconds(reducer, cost, trials[0].speedup))
    return TimedCuts(cuts, seconds, reason)


def _cut(reducer: TokenReducer, cost: TokenCost, target: float) -> Cut:
    found = find_counts(reducer, cost, target)
    macs = cost.macs(reducer, found.removed)
    own = params_of(reducer.attach(cost.shape, found.removed))
    return Cut(
        kept={},
        target=target,
        speedup=cost.macs_base / macs,
        macs_base=cost.macs_base,
        macs=macs,
        params_base=cost.params_base,
        params=cost.params_base + own,
        reason=found.reason,
        steps=1,
        removed=found.removed,
    )


def _seconds(reducer: TokenReducer, cost: TokenCost, target: float) -> float:
    started = time.perf_counter()
    find_counts(reducer, cost, target)
    return time.perf_counter() - started


def reduced_network(trial: Trial, start: nn.Module, cut: Cut, task: Task) -> tuple[TokenViT, Counts]:
    """A copy of the dense network `start` that removes the tokens of `cut`, and the tokens that its blocks see.

    The method's own weights are drawn by the trial's seed.
    """
    model = copy.deepcopy(start)
    example = example_of(task.data, next(start.parameters()).device)
    reducer = reducer_named(trial.importance.name, trial.importance.params)
    return reduced(model, example, reducer, cut.removed, trial.seed)
