"""The baseline `small` in the pipeline: which smaller dense network of the family costs nearest to what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import torch
from torch import nn

from raybench.errors import NotSupported
from raybench.groups.cost import count_macs, params_of
from raybench.models.baked import baked
from raybench.models.build import build_model
from raybench.models.family import Member, relatives, widths
from raybench.pipeline.network import NEW, example_of, seeded_model
from raybench.selection.exact_end import ENOUGH
from raybench.selection.records import Cut
from raybench.sweep.trial import Trial
from raybench.tasks.protocol import Task

NEAR = 1.25  # a network by another name is taken if its cost is so near; else the same one at a smaller width
NO_STEP = "small selects no channels"
Costs = tuple[int, int]  # MACs, parameters


def small_cut(trial: Trial, dense: nn.Module, task: Task) -> Cut:
    """The smaller network in place of a cut: its name, MACs and parameters.

    Raises:
        NotSupported: the family has no smaller network.
    """
    image = example_of(task.data, next(dense.parameters()).device)
    base = count_macs(dense, image), params_of(dense)
    which = 1 if trial.target == "params" else 0
    member, found = nearest(trial.model, trial.model_params, base, base[which] / trial.speedup, which, _costs(task))
    got = base[which] / found[which]
    far = abs(got / trial.speedup - 1) > ENOUGH
    reason = f"small: {member} is the family's nearest dense network, {got:.2f}x" if far else None
    return Cut(
        kept={}, target=trial.speedup, speedup=base[0] / found[0], macs_base=base[0], macs=found[0],
        params_base=base[1], params=found[1], reason=reason, network=json.dumps([member.name, dict(member.params)]),
    )  # fmt: skip


def nearest(
    name: str, params: dict, base: Costs, goal: float, which: int, costs: Callable[[Member], Costs | None]
) -> tuple[Member, Costs]:
    """The member of the family of `name` whose cost is nearest to `goal`, as a ratio, and its costs.

    Args:
        name: the network whose family it is.
        params: its parameters.
        base: its costs.
        goal: wished MACs or parameters.
        which: 0 for MACs, 1 for parameters.
        costs: of a member; None where it can't be built for the data.
    """
    known = [(one, found) for one in relatives(name, params) if (found := costs(one)) and found[which] < base[which]]
    known.sort(key=lambda pair: _apart(pair[1][which], goal))
    if not known or _apart(known[0][1][which], goal) > NEAR:
        known = known[:1] + _narrower(widths(name, params), goal, which, costs)
        known.sort(key=lambda pair: _apart(pair[1][which], goal))
    if not known:
        raise NotSupported(f"small: no smaller network of the family of {name} is known, nor has it a width")
    return known[0]


def _narrower(
    members: Sequence[Member], goal: float, which: int, costs: Callable[[Member], Costs | None]
) -> list[tuple[Member, Costs]]:
    """The two networks around `goal`, of some that rise in cost; those that can't be built are passed over."""
    low, high, tried = 0, len(members), []
    while low < high:
        middle = (low + high) // 2
        found = costs(members[middle])
        if found:
            tried.append((members[middle], found))
        low, high = (middle + 1, high) if found is None or found[which] < goal else (low, middle)
    return tried


def _apart(cost: float, goal: float) -> float:
    return max(cost / goal, goal / cost)


def _costs(task: Task) -> Callable[[Member], Costs | None]:
    def costs(member: Member) -> Costs | None:
        try:
            with torch.random.fork_rng(devices=[]):
                net = baked(build_model(member.name, task.data, dict(member.params))).eval()
            macs = count_macs(net, example_of(task.data, torch.device("cpu")))
        except Exception:  # networks of others refuse sizes and parameters with any error: then it is no candidate
            return None
        return macs, params_of(net)

    return costs


def member_of(cut: Cut) -> Member:
    """The network that stands in place of a cut one."""
    assert cut.network is not None
    name, params = json.loads(cut.network)
    return Member(name, params)


def small_network(trial: Trial, cut: Cut, task: Task, device: torch.device) -> nn.Module:
    """The smaller network with new weights of the trial's seed."""
    member = member_of(cut)
    return baked(seeded_model(member.name, member.params, task.data, NEW + trial.seed)).to(device)
