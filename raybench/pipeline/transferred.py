"""Networks that start from weights of other data: which weights, and cuts that are chosen before the transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import NotSupported
from raybench.groups.blocks import removed_blocks
from raybench.groups.cost import Cost
from raybench.groups.library_count import library_counts
from raybench.groups.records import Groups
from raybench.models.baked import baked
from raybench.models.build import build_model
from raybench.models.head import Head
from raybench.models.tensors import read_tensors
from raybench.models.weight_names import match
from raybench.models.weights import load_weights
from raybench.pipeline import cache
from raybench.pipeline.context import StageContext
from raybench.selection.joint import Removable
from raybench.selection.meters import BlockMeter, Spent
from raybench.selection.problem import Meter, Problem, Solution
from raybench.selection.records import Cut
from raybench.selection.select import cut_of
from raybench.selection.shallow import Shallow, without
from raybench.sweep.trial import Trial
from raybench.sweep.weights import STAGE, Weights
from raybench.tasks.protocol import Task

METERS: dict[str, Callable[[Cost], Meter]] = {"macs": Meter.macs, "params": Meter.params}


def given_weights(trial: Trial, context: StageContext) -> Weights | None:
    """The weights of the stage of other data that `trial` starts from, as a file; None for any other trial."""
    if trial.weights.kind != STAGE:
        return None
    file = cache.read(context, trial.weights.identity, "base") / cache.WEIGHTS
    return Weights(kind="file", path=str(file), new_head=True)


def source_network(trial: Trial, task: Task, context: StageContext) -> nn.Module:
    """The network as it came from the source data, with the classifier that it had there.

    Raises:
        NotSupported: the weights have no classifier, without which the layers before it have no score.
    """
    given = given_weights(trial, context) or trial.weights
    assert given.path is not None  # transferred weights are a file's
    path, params = Path(given.path), trial.model_params
    with torch.random.fork_rng(devices=[]):
        plain = build_model(trial.model, task.data, params)
        state = match(plain.state_dict(), read_tensors(path), str(path)).state
        classes = {len(state[name]) for name in Head(trial.model, task.data, params).tensors if name in state}
        if len(classes) != 1:
            raise NotSupported(f"prune-then-transfer: {path} has no classifier that its channels could be scored with")
        net = build_model(trial.model, replace(task.data, classes=classes.pop()), params)
    load_weights(net, path, grey=True)
    return baked(net).to(context.device)


@dataclass(frozen=True)
class OfTarget:
    """A cost as `model`, which the cut is for, has it, where blocks are chosen in a network with another classifier."""

    meter: BlockMeter
    model: nn.Module
    groups: Groups
    example: Tensor

    def __call__(self, cost: Cost) -> Meter:
        """Of the whole network."""
        return self.meter(Cost.measure(self.model, self.example, self.groups))

    def within(self, cost: Cost, block: str, params: int) -> Spent | None:
        """Of one block, which is the same in both networks."""
        return self.meter.within(cost, block, params)

    def left(self, model: nn.Module, groups: Groups, example: Tensor) -> Meter:
        """Of the network without the blocks that `model` lacks."""
        return self.meter.left(without(self.model, removed_blocks(model)), groups, example)


def priced(
    cuts: Mapping[float, Cut],
    trial: Trial,
    model: nn.Module,
    example: Tensor,
    groups: Groups,
    removable: Removable | None = None,
) -> dict[float, Cut]:
    """`cuts`, chosen in the source's network, with the costs of `model`, whose classifier has other classes.

    `removable`: blocks of `model` that may have gone.
    """
    if removable is None:
        return _priced(cuts, trial, model, example, groups)

    def without_blocks(amount: float, cut: Cut) -> Cut:
        shallow = Shallow.of(model, cut.blocks, cut.blocks_base, example)
        found = _priced({amount: cut}, trial, shallow.model, example, removable.regroup(shallow.model))
        return shallow.of_whole(found[amount], cut.target)

    return {amount: without_blocks(amount, cut) for amount, cut in cuts.items()}


def _priced(
    cuts: Mapping[float, Cut], trial: Trial, model: nn.Module, example: Tensor, groups: Groups
) -> dict[float, Cut]:
    problem = Problem.of(groups, Cost.measure(model, example, groups), trial.strategy, trial.round_to)
    base, count = library_counts(model, example, groups)

    def with_own_costs(cut: Cut) -> Cut:
        kept = tuple(np.array(cut.kept[group.name], dtype=np.int64) for group in groups)
        found = cut_of(problem, cut.target, Solution(kept, cut.reason, cut.steps), base, count)
        return replace(found, selected_ms=cut.selected_ms, predicted_ms=cut.predicted_ms)

    return {amount: with_own_costs(cut) for amount, cut in cuts.items()}


def meter_of(trial: Trial, model: nn.Module, example: Tensor, groups: Groups) -> Callable[[Cost], Meter]:
    """The cost that the targets of `trial` are of, as `model` has it, whatever network is scored."""
    own = METERS[trial.target](Cost.measure(model, example, groups))
    return lambda scored: own
