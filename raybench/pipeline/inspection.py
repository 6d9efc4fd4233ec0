"""What of a network can be pruned: its groups with their shares, what stays whole and why, the largest speed-up."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raybench.datasets.facts import DataFacts
from raybench.groups.blocks import removable_blocks
from raybench.groups.cost import Cost
from raybench.groups.records import Group, Groups
from raybench.groups.trace import trace
from raybench.models.baked import baked
from raybench.models.build import build_model
from raybench.pipeline.network import example_of
from raybench.pipeline.outputs import returning_tensors
from raybench.selection.problem import STRATEGIES, Problem

UNNAMED = "it shrinks with no group"


@dataclass(frozen=True)
class GroupFacts:
    """One group of channels that can only be removed together.

    Attributes:
        name: the name by which cuts call it.
        part: ``channels``, or a part of an attention: ``mlp``, ``heads``, ``head-dim``, ``embed``.
        units: the smallest parts that can go.
        least: units that always stay.
        layers: the layers whose outputs shrink.
        macs_share: share of the network's MACs that goes if this group alone is cut to `least`.
        params_share: the same of its parameters.

    Example:
        >>> import torch, raybench
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> group = raybench.inspect(net, torch.zeros(1, 8)).groups[0]
        >>> (group.name, group.units, group.layers, group.macs_share)
        ('0', 16, ('0',), 0.9375)
    """

    name: str
    part: str
    units: int
    least: int
    layers: tuple[str, ...]
    macs_share: float
    params_share: float


@dataclass(frozen=True)
class Inspection:
    """What of one network can be pruned.

    Attributes:
        model: its class.
        macs: MACs for one image.
        params: its parameters.
        groups: in the order of its modules.
        whole: layer -> why its outputs keep their width.
        most: strategy -> the largest speed-up that can be reached by cutting channels.
        seconds: how long finding the groups took.
        blocks: modules that may go whole, as a shortcut goes around each (`depths` of a sweep).

    Example:
        >>> import torch, raybench
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> found = raybench.inspect(net, torch.zeros(1, 8))
        >>> found.macs, found.params, found.most["protected-global"]
        (192, 212, 8.0)
    """

    model: str
    macs: int
    params: int
    groups: tuple[GroupFacts, ...]
    whole: Mapping[str, str]
    most: Mapping[str, float]
    seconds: float
    blocks: tuple[str, ...] = ()


def inspect(
    model: nn.Module,
    example: Tensor,
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    parts: Sequence[str] = (),
) -> Inspection:
    """Find out what of `model` can be pruned. It is left as it was.

    Args:
        model: the network.
        example: one batch as the network takes it, (n, channels, height, width).
        keep: modules whose outputs keep their width, by name or glob.
        only: modules outside which nothing shrinks, by name or glob; empty: all may shrink.
        parts: parts of attention models that may shrink, of ``embed``, ``head-dim``, ``heads``, ``mlp``; empty: the
            default.

    Returns:
        Its groups, what stays whole and why, and the most that can be reached.

    Raises:
        UserError: an unknown part or module, or a network that doesn't run on the example.
        NotSupported: nothing of it can be pruned, or its cost can't be predicted.

    Example:
        >>> import torch, raybench
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> found = raybench.inspect(net, torch.zeros(1, 8))
        >>> [(group.name, group.units, group.layers) for group in found.groups], dict(found.whole)
        ([('0', 16, ('0',))], {'2': "it makes the network's output"})
    """
    net, start = copy.deepcopy(model), time.perf_counter()
    with returning_tensors(net), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `whole` says the same
        groups = trace(net, example, prune=tuple(parts), protect=keep, only=only)
        seconds = time.perf_counter() - start
        cost = Cost.measure(net, example, groups)
        blocks = removable_blocks(net, example, protect=keep, only=only)
    return Inspection(
        type(model).__name__, cost.macs_base, cost.params_base, _facts(groups, cost), _whole(net, groups),
        {name: _most(groups, cost, name) for name, rule in STRATEGIES.items() if not rule.blocks}, seconds, blocks,
    )  # fmt: skip


def inspect_named(name: str, data: DataFacts, **chosen: Sequence[str]) -> Inspection:
    """`inspect` for the model `name`, built for a dataset with initial weights, and a black image. See `inspect`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = baked(build_model(name, data))
    return inspect(model, example_of(data, torch.device("cpu")), **chosen)


def _facts(groups: Groups, cost: Cost) -> tuple[GroupFacts, ...]:
    least = np.array([group.least for group in groups])
    alone = np.where(np.eye(len(groups), dtype=bool), least, cost.sizes)
    macs = 1 - np.asarray(cost.macs(alone)) / cost.macs_base
    params = 1 - np.asarray(cost.params(alone)) / cost.params_base
    return tuple(
        GroupFacts(group.name, group.part, group.size, group.least, _outs(group), float(m), float(p))
        for group, m, p in zip(groups, macs, params, strict=True)
    )


def _outs(group: Group) -> tuple[str, ...]:
    found = [m.layer for m in group.members if m.side == "out" and m.kind in ("conv", "linear", "depthwise")]
    return tuple(found) or (group.members[0].layer,)


def _whole(model: nn.Module, groups: Groups) -> dict[str, str]:
    """Layer -> why it keeps its outputs, in the model's order."""
    reasons = {name: groups.whole.get(name, UNNAMED) for name in groups.protected}
    order = [name for name, _ in model.named_modules() if name in reasons]
    return {name: reasons[name] for name in (*order, *reasons)}


def _most(groups: Groups, cost: Cost, strategy: str) -> float:
    """The speed-up where every group is at its floor."""
    return float(cost.macs_base / cost.macs(Problem.of(groups, cost, strategy).floors))
