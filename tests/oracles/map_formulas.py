"""The oracles that look at feature maps: HRank, CHIP, ThiNet and channel pruning by LASSO, written from the papers."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.oracles.grouping import reduced


def layer_io(net, layer, images):
    """(inputs, outputs) of `layer` for all images."""
    seen = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append((i[0], o)))
    with torch.no_grad():
        net(images)
    handle.remove()
    return seen[0]


def maps_of(net, group, member, images):
    """(images, channels, h, w) after the activation of a member where a group's maps are looked at; None elsewhere."""
    if any(m.kind == "conv" and m.side == "in" for m in group.members):
        if member.kind != "conv" or member.side != "in":
            return None
        return layer_io(net, member.layer, images)[0]
    kinds = {m.kind for m in group.members}
    wanted = ("norm",) if "norm" in kinds else ("conv", "depthwise")
    if member.kind not in wanted or member.side != "out":
        return None
    return layer_io(net, member.layer, images)[1].clamp(min=0)


def hrank(net, groups, images, labels, batch_size):
    """Lin et al., CVPR 2020, section 3.2: mean over images of Rank(feature map), after the activation."""

    def scores(group, member):
        if (maps := maps_of(net, group, member, images)) is None:
            return None
        return [
            sum(np.linalg.matrix_rank(maps[n, c].numpy()) for n in range(len(maps))) / len(maps)
            for c in range(member.width)
        ]

    return reduced(groups, scores)


def chip(net, groups, images, labels, batch_size):
    """Sui et al., NeurIPS 2021, equation 5: mean over images of ||A||_* - ||A with the row zeroed||_*."""

    def scores(group, member):
        if (maps := maps_of(net, group, member, images)) is None:
            return None
        lost = np.zeros(member.width)
        for image in maps.flatten(2).double().numpy():
            whole = np.linalg.norm(image, "nuc")
            for c in range(member.width):
                rest = image.copy()
                rest[c] = 0
                lost[c] += whole - np.linalg.norm(rest, "nuc")
        return lost / len(maps)

    return reduced(groups, scores)


def contributions(net, member, group, images):
    """(terms, points * outputs): what each unit's channels alone give to the layer's output, bias left out.

    ThiNet eq. 4: x_c = sum_{k1,k2} W_{c,k1,k2} x_{c,k1,k2}; channels of other groups are terms of their own.
    """
    module = net.get_submodule(member.layer)
    inputs = layer_io(net, member.layer, images)[0]
    unit_of = dict(zip(member.positions.tolist(), member.units.tolist(), strict=True))
    terms = {}
    for c in range(member.width):
        alone = torch.zeros_like(inputs)
        if isinstance(module, nn.Linear):
            alone[..., c] = inputs[..., c]
            given = F.linear(alone, module.weight)
        else:
            alone[:, c] = inputs[:, c]
            given = F.conv2d(alone, module.weight, None, module.stride, module.padding, 1, module.groups)
        key = unit_of.get(c, ("other", c))
        terms[key] = terms.get(key, 0) + given.detach().flatten().numpy()
    return [terms[unit] for unit in range(group.size)]


def selection(choose):
    def way(net, groups, images, labels, batch_size):
        result = []
        for group in groups:
            readers = [m for m in group.members if m.side == "in"]
            rows = [choose(contributions(net, m, group, images)) for m in readers]
            result.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
        return result

    return way


def thinet_order(terms):
    """Luo et al., ICCV 2017, eq. 6 and algorithm 1: repeatedly add to T the channel that keeps
    sum_i (sum_{j in T} x_ij)^2 smallest; a channel's score is that sum, over the output's energy."""
    energy = float((sum(terms) ** 2).sum())
    dropped, scores, last = [], [0.0] * len(terms), 0.0
    while len(dropped) < len(terms):
        errors = {
            j: float((sum(terms[i] for i in [*dropped, j]) ** 2).sum()) for j in range(len(terms)) if j not in dropped
        }
        best = min(errors, key=errors.get)
        dropped.append(best)
        last = scores[best] = max(errors[best] / energy, last * (1 + 2**-20))
    return scores


def lasso_entries(terms):
    """He et al., ICCV 2017, eq. 2: largest lambda at which b_j != 0 minimises ||Y - sum b_j x_j||^2 / 2 + lambda |b|_1.

    A channel that gives nothing never has a coefficient. Of the others every active set with every choice of signs
    is tried: b_A = M_AA^-1 (c_A - lambda s_A) is the solution wherever its signs are s_A and no other correlation
    exceeds lambda (the KKT conditions). All of these are linear in lambda.
    """
    x = np.stack(terms)
    gram = x @ x.T
    c, n = gram.sum(1), len(x)
    largest = np.zeros(n)
    for signs in itertools.product(*((-1, 0, 1) if gram[j, j] > 0 else (0,) for j in range(n))):
        active = [i for i in range(n) if signs[i]]
        rest = [i for i in range(n) if not signs[i]]
        if not active:
            continue
        inverse = np.linalg.inv(gram[np.ix_(active, active)])
        s = np.array([signs[i] for i in active])
        fixed, slope = inverse @ c[active], -(inverse @ s)  # b_A = fixed + lambda slope
        low, high = 0.0, np.inf
        conditions = [(s[a] * fixed[a], s[a] * slope[a]) for a in range(len(active))]  # u + lambda v >= 0
        for j in rest:
            offset, growth = c[j] - gram[j, active] @ fixed, -(gram[j, active] @ slope)
            conditions += [(-offset, 1 - growth), (offset, 1 + growth)]  # |offset + lambda growth| <= lambda
        for u, v in conditions:
            if v > 0:
                low = max(low, -u / v)
            elif v < 0:
                high = min(high, -u / v)
            elif u < 0:
                high = -1.0
        if low <= high * (1 + 1e-12):
            for i in active:
                largest[i] = max(largest[i], high)
    return list(largest / (x.sum(0) ** 2).sum())
