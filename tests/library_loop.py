"""torch-pruning's own progressive loop, run as its authors' scripts run it: the yardstick of tests and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from raybench.groups.attention import attentions, plainly
from raybench.groups.cost import count_macs
from raybench.groups.records import Groups
from raybench.groups.widths import sides_of
from raybench.selection.records import Cut


@dataclass(frozen=True)
class Stop:
    """Where the loop stood when a target was first passed."""

    target: float
    speedup_tp: float  # as the library counts
    speedup: float  # by torch's counter
    steps: int
    seconds: float  # CPU time from the start of the loop
    kept: Mapping[str, np.ndarray]  # layer -> original indices of its output channels that are left


def run(
    model: nn.Module,
    example: Tensor,
    importance: tp.importance.Importance,
    targets: Sequence[float],
    *,
    ignored: Sequence[nn.Module],
    steps: int = 400,
    most: float = 0.9,
    global_pruning: bool = True,
    before_step: Callable[[nn.Module], None] = lambda model: None,
) -> Iterator[Stop]:
    """Prune `model` in place step by step; yields a Stop for each target (ascending) as it is passed.

    `before_step` gathers what the importance needs, as the authors' script does for OBD-C: from the network as it is.
    """
    heads = attentions(model)
    started = time.process_time()
    with plainly(model), torch.enable_grad():
        pruner = tp.pruner.BasePruner(
            model, example, importance=importance, global_pruning=global_pruning, pruning_ratio=1.0,
            max_pruning_ratio=most, iterative_steps=steps, ignored_layers=list(ignored),
            num_heads={m.qkv: m.num_heads for m in heads.values()}, in_channel_groups={}, out_channel_groups={},
        )  # fmt: skip
        names = {module: name for name, module in model.named_modules()}
        kept: dict[str, np.ndarray] = {}
        base, waiting = tp.utils.count_ops_and_params(model, example)[0], list(targets)
        spent, full = 0.0, count_macs(model, example)
        for step in range(1, steps + 1):
            before_step(model)
            for group in pruner.step(interactive=True):
                _note(pruner, names, group, kept)
                group.prune()
            for attention in heads.values():
                attention.head_dim = attention.qkv.out_features // (3 * attention.num_heads)
                attention.attn_dim = attention.qkv.out_features // 3
            speedup = base / tp.utils.count_ops_and_params(model, example)[0]
            while waiting and speedup >= waiting[0]:
                paused = time.process_time()
                left = {name: index.copy() for name, index in kept.items()}
                true = full / count_macs(model, example)
                yield Stop(waiting.pop(0), speedup, true, step, paused - started - spent, left)
                spent += time.process_time() - paused
            if not waiting:
                return


def _note(
    pruner: tp.pruner.BasePruner, names: dict[nn.Module, str], group: tp.Group, kept: dict[str, np.ndarray]
) -> None:
    for dep, idxs in group:
        module = dep.target.module
        layer = module in names and isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        if layer and pruner.DG.is_out_channel_pruning_fn(dep.handler):
            index = kept.setdefault(names[module], np.arange(pruner.layer_init_out_ch[module]))
            kept[names[module]] = np.delete(index, idxs)


class Weighed(tp.importance.Importance):
    """A library importance that finds other values in place of the weights: those that `values` gathers.

    So the library's own code scores, reduces and normalises by any criterion, batch norms included.
    """

    def __init__(
        self, inner: tp.importance.Importance, values: Callable[[nn.Module], Mapping[nn.Parameter, Tensor]]
    ) -> None:
        self.inner, self._of, self._values = inner, values, {}

    def gather(self, model: nn.Module) -> None:
        """Gather the values of the network as it is."""
        self._values = self._of(model)

    def __call__(self, group: tp.Group) -> Tensor | None:
        weights = {parameter: parameter.data for parameter in self._values}
        for parameter, value in self._values.items():
            parameter.data = value
        try:
            return self.inner(group)
        finally:
            for parameter, weight in weights.items():
                parameter.data = weight


def outputs_left(groups: Groups, kept: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Layer -> output channels that are left, of every Conv and Linear that `groups` cut on that side."""
    alive = [np.isin(np.arange(g.size), kept[g.name]) for g in groups]
    left = {}
    for (layer, side), owners in sides_of(groups).items():
        if side == "out" and owners[0][1].kind in ("conv", "linear", "depthwise"):
            stays = np.ones(owners[0][1].width, dtype=bool)
            for g, member in owners:
                stays[member.positions] &= alive[g][member.units]
            left[layer] = np.nonzero(stays)[0]
    return left


def check_agreement(stops: Iterable[Stop], cuts: Mapping[float, Cut], groups: Groups) -> None:
    """AssertionError unless the cuts keep the channels that the library's loop had left, after as many steps."""
    for stop in stops:
        cut = cuts[stop.target]
        assert cut.steps == stop.steps
        assert cut.macs_tp_base / cut.macs_tp == pytest.approx(stop.speedup_tp, rel=1e-12)
        left = outputs_left(groups, cut.kept)
        assert {name: left[name].tolist() for name in stop.kept} == {n: k.tolist() for n, k in stop.kept.items()}


def overlap(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Intersection over union of kept output channels, over all layers that either cut."""
    both = sum(len(np.intersect1d(ours[k], theirs[k])) if k in theirs else len(ours[k]) for k in ours)
    either = sum(len(np.union1d(ours[k], theirs[k])) if k in theirs else len(ours[k]) for k in ours)
    return both / either
