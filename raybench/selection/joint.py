"""Cuts of the strategy `optimal-blocks`: for each target blocks go, then widths of what is left are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.cost import Cost, params_of
from raybench.groups.records import Groups
from raybench.scoring.scorer import Scoring
from raybench.selection.meters import MACS, BlockMeter, Spent
from raybench.selection.optimal_blocks import BlockKnapsack, weighed
from raybench.selection.problem import Problem
from raybench.selection.records import Cut
from raybench.selection.select import scorer_of, select
from raybench.selection.shallow import Shallow


@dataclass(frozen=True)
class Removable:
    """Modules of a network that may go whole."""

    names: tuple[str, ...]
    regroup: Callable[[nn.Module], Groups]  # the groups of a copy of the network without some of them


def select_jointly(
    scoring: Scoring,
    example: Tensor,
    groups: Groups,
    targets: Sequence[float],
    removable: Removable,
    *,
    strategy: str,
    schedule: str = "progressive",
    round_to: int = 1,
    meter: BlockMeter = MACS,
) -> dict[float, Cut]:
    """Select one cut for each target, whose `blocks` go before its channels; a cut doesn't depend on other targets.

    Args:
        scoring: the criterion and the whole network, which is not changed.
        example: an image as the network takes it.
        groups: the whole network's prunable groups.
        targets: requested cost of the network / cost of the cut one, each above 1.
        removable: modules that may go whole.
        strategy: a key of `STRATEGIES` that removes blocks.
        schedule: of scoring the shallower network; the blocks are chosen by the first scores.
        round_to: kept units are multiples of it.
        meter: the cost that the targets are of.

    Raises:
        NotSupported: the criterion scores no channel, or no channel inside a block whose cost is known.
    """
    cost = Cost.measure(scoring.model, example, groups)
    problem = Problem.of(groups, cost, strategy, round_to, meter(cost))

    def spent(name: str) -> Spent | None:
        return meter.within(cost, name, params_of(scoring.model.get_submodule(name)))

    blocks = weighed(problem, scorer_of(scoring, groups).scores(), removable.names, spent)
    if not blocks.blocks:
        raise NotSupported(
            f"{strategy}: no block of {type(scoring.model).__name__} can be weighed: inside each the criterion scores "
            "no channels, or products outside the layers hide its cost"
        )
    how: dict[str, Any] = {"strategy": strategy, "schedule": schedule, "round_to": round_to}

    def cut_without(gone: tuple[str, ...], target: float) -> Cut:
        shallow = Shallow.of(scoring.model, gone, len(removable.names), example)
        left = removable.regroup(shallow.model)
        own = meter.left(shallow.model, left, example)
        saved = problem.meter.base / own.base
        if target <= saved:
            return shallow.uncut(left, example, strategy, round_to, target, saved)
        more = {**how, "meter": lambda cost: own}
        found = select(replace(scoring, model=shallow.model), example, left, [target / saved], **more)
        return shallow.of_whole(found[target / saved], target)

    return {target: _first_met(blocks, problem.goal(target), target, cut_without) for target in sorted(set(targets))}


def _first_met(
    sack: BlockKnapsack, goal: float, target: float, cut_without: Callable[[tuple[str, ...], float], Cut]
) -> Cut:
    """The cut without the best set of blocks with which the target is met; the best set's, where none meets it."""
    tried: list[Cut] = []
    for gone in sack.choices(goal):
        tried.append(cut_without(gone, target))
        if tried[-1].reason is None:
            return tried[-1]
    return tried[0]
