"""Trained selections on small networks in float64, for their oracles."""

from __future__ import annotations

import copy

import numpy as np
import torch

from raybench import registry
from raybench.selection.trained import budget_of
from tests.oracles import nets

IMAGES = torch.zeros(1, 3, 8, 8, dtype=torch.float64)


def budget(net, groups, speedup=2.0, strategy="global"):
    return budget_of(net, IMAGES, groups, speedup, strategy=strategy, round_to=1, seed=0)


def attached(name, net_name="plain", *, speedup=2.0, strategy="global", **params):
    """(selection, network in float64 that it is attached to, groups, the network as it was)."""
    net, groups = nets.build(net_name)
    net.double()
    found, before = registry.selection.load(name)(**params), copy.deepcopy(net)
    found.attach(net, budget(net, groups, speedup, strategy))
    return found, net, groups, before


def backward(net, seed=0):
    """Gradients of a loss of random images; returns them by name."""
    torch.manual_seed(seed)
    net.zero_grad()
    net(torch.randn(6, 3, 8, 8, dtype=torch.float64)).square().sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def brute_force(net, groups, speedup, scores):
    """Kept units by one list of all units, lowest scores first, until the MACs are met; at least one unit a group."""
    macs, sizes = budget(net, groups).macs, np.array([group.size for group in groups])
    order = sorted((value, g, u) for g, group in enumerate(groups) for u, value in enumerate(scores[group.name]))
    gone = [set() for _ in groups]
    for _, g, u in order:
        if macs(sizes - [len(one) for one in gone]) <= macs(sizes) / speedup:
            break
        if len(gone[g]) < sizes[g] - 1:
            gone[g].add(u)
    return {group.name: sorted(set(range(group.size)) - one) for group, one in zip(groups, gone, strict=True)}
