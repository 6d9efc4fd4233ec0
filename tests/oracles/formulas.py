"""Every criterion once more: slow, obvious, float64, written from the papers' formulas. Imports nothing of methods/.

`unit_scores` gives each group's normalised unit scores. Sums, products and comparisons are spelled out weight by
weight; only derivatives (torch's autograd) and numpy's matrix rank are taken ready-made. Equations are cited by number
where we are sure of it, by section where the paper gives none or we could not look it up.
"""

from __future__ import annotations

import copy
import itertools
from collections import namedtuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.oracles.grouping import reduced
from tests.oracles.map_formulas import chip, hrank, lasso_entries, selection, thinet_order
from tests.oracles.nets import WIRES

Side = namedtuple("Side", "layer kind side")


def unit_scores(name, net, groups, images, labels, batch_size):
    """list of (units,) float64, one a group, over their mean in the group (LAMP: its own way); None: no score."""
    net = copy.deepcopy(net).double().eval()
    images = images.double()
    raw = WAYS[name](net, groups, images, labels, batch_size)
    return [None if scores is None else normalise(name, np.asarray(scores, dtype=np.float64)) for scores in raw]


def normalise(name, scores):
    if name == "lamp":
        # Lee et al., ICLR 2021, section 2: score(u) = W[u]^2 / sum_{v >= u} W[v]^2
        return np.array([s / sum(t for t in scores if t >= s) for s in scores])
    if name == "magnitude-l2/max":
        return scores / max(scores)
    return scores / (sum(scores) / len(scores))


def entries(net, member, channel):
    """Indices into the member's weight of everything that belongs to `channel` of its side."""
    if member.kind == "parameter":
        return []
    module = net.get_submodule(member.layer)
    weight = module.weight
    every = itertools.product(*(range(size) for size in weight.shape))
    if member.kind in ("norm", "depthwise") or member.side == "out":
        return [index for index in every if index[0] == channel]
    convolution_groups = getattr(module, "groups", 1)
    per_in = weight.shape[1]
    per_out = weight.shape[0] // convolution_groups
    return [i for i in every if i[1] == channel % per_in and i[0] // per_out == channel // per_in]


def weights_of(net):
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def sum_of_weights(net, groups, value):
    """Sum `value(parameter name, index)` over each channel's weights, for every member that has weights."""

    def scores(group, member):
        if member.kind == "parameter":
            return None
        name = f"{member.layer}.weight"
        return [sum(value(name, index) for index in entries(net, member, c)) for c in range(member.width)]

    return reduced(groups, scores)


def magnitude(power):
    """Li et al., ICLR 2017, section 3.1, step 1 (no number): s_j = sum |w| over a filter; here |w|^p, all layers."""

    def way(net, groups, images, labels, batch_size):
        weights = weights_of(net)
        return sum_of_weights(net, groups, lambda name, index: abs(float(weights[name][index])) ** power)

    return way


def bn_scale(net, groups, images, labels, batch_size):
    """Liu et al., ICCV 2017, section 3 (no number): channels are ranked by |gamma|, gamma of eq. 2."""

    def scores(group, member):
        module = None if member.kind != "norm" else net.get_submodule(member.layer)
        return [abs(float(g)) for g in module.weight.detach()] if isinstance(module, nn.BatchNorm2d) else None

    return reduced(groups, scores)


def fpgm(net, groups, images, labels, batch_size):
    """He et al., CVPR 2019, section 3.3: g(x) = sum_j ||x - F_j||_2 over the filters of the layer."""

    def scores(group, member):
        if member.side != "out" or member.kind not in ("conv", "linear", "depthwise"):
            return None
        weight = net.get_submodule(member.layer).weight
        filters = [[float(weight[i].detach()) for i in entries(net, member, c)] for c in range(member.width)]
        return [sum(sum((a - b) ** 2 for a, b in zip(f, g, strict=True)) ** 0.5 for g in filters) for f in filters]

    return reduced(groups, scores)


def taylor(net, groups, images, labels, batch_size):
    """Molchanov et al., CVPR 2019, section 3, absolute instead of squared: |g w|, g = dL/dw of the mean loss."""
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        for name, g in sample_gradient(net, image, label).items():
            total[name] += g / len(images)
    weights = weights_of(net)
    return sum_of_weights(net, groups, lambda n, i: abs(float(weights[n][i]) * float(total[n][i])))


def obd_hessian(net, groups, images, labels, batch_size):
    """LeCun et al., 1989, eq. 2 for one weight, without its 1/2: w^2 h, h = mean over samples of g^2."""
    squares = mean_squares(net, images, labels)
    weights = weights_of(net)
    return sum_of_weights(net, groups, lambda n, i: float(weights[n][i]) ** 2 * float(squares[n][i]))


def obd_c(net, groups, images, labels, batch_size, sides="out", shares=True):
    """Wang et al., ICML 2019, section 3 (no number): w^2 F, labels drawn, each layer's scores over their sum.

    As in the authors' fisher_diag_pruner.py: output filters only, and 1e-10 added to each entry of F.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = []
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            chances = net(images[start : start + batch_size]).softmax(1)
            drawn += torch.multinomial(chances, 1, generator=generator).flatten().tolist()
    squares = mean_squares(net, images, torch.tensor(drawn))
    weights = weights_of(net)

    def scores(group, member):
        filters = member.side == "out" and member.kind in ("conv", "linear", "depthwise")
        if member.kind == "parameter" or (sides == "out" and not filters):
            return None
        name = f"{member.layer}.weight"
        found = [
            sum(float(weights[name][i]) ** 2 * (float(squares[name][i]) + 1e-10) for i in entries(net, member, c))
            for c in range(member.width)
        ]
        return [s / sum(found) if shares else s for s in found]

    return reduced(groups, scores)


def sample_gradient(net, image, label):
    net.zero_grad()
    F.cross_entropy(net(image.unsqueeze(0)), label.unsqueeze(0)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def mean_squares(net, images, labels):
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        for name, g in sample_gradient(net, image, label).items():
            total[name] += g**2 / len(images)
    return total


def lookahead(net, groups, images, labels, batch_size):
    """Park et al., ICLR 2020, section 2: w^2 P N over a filter, with their form for batch norms, squared.

    P: squared weights of the filter that feeds w's input, N: of the slice that reads its output, times the squared
    factor of the batch norm between (weight alone for a layer norm); an identity adds 1, and nothing at all is 1.
    """
    wires = WIRES[type(net).__name__]

    def squares(layer, side, channel):
        module = net.get_submodule(layer)
        one_channel = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        kind = "depthwise" if one_channel else "linear" if isinstance(module, nn.Linear) else "conv"
        weight = module.weight.detach()
        return sum(float(weight[i]) ** 2 for i in entries(net, Side(layer, kind, side), channel))

    def factor(norm, channel):
        if norm is None:
            return 1.0
        module = net.get_submodule(norm)
        square = float(module.weight.detach()[channel]) ** 2
        return square / (float(module.running_var[channel]) + module.eps) if hasattr(module, "running_var") else square

    def heads(writer, channel):  # queries, keys and values of one channel of a head are read at the same place
        width = net.proj.in_features if writer == "qkv" else None
        return channel % width if width else channel

    def before(layer, channel):
        found = [1.0] if layer in wires.get("+in", ()) else []
        for writer, reader, norm in wires[""]:
            if reader == layer:
                size = net.get_submodule(writer).weight.shape[0]
                same = [c for c in range(size) if heads(writer, c) == channel]
                found += [factor(norm, channel) * squares(writer, "out", c) for c in same]
        return sum(found) if found else 1.0

    def after(layer, channel):
        found = [1.0] if layer in wires.get("+out", ()) else []
        for writer, reader, norm in wires[""]:
            if writer == layer:
                found.append(factor(norm, channel) * squares(reader, "in", heads(writer, channel)))
        return sum(found) if found else 1.0

    def scores(group, member):
        if member.side != "out" or member.kind not in ("conv", "linear", "depthwise"):
            return None
        module = net.get_submodule(member.layer)
        weight = module.weight.detach()
        per_in = weight.shape[1]
        fed = range(member.width if member.kind == "depthwise" else getattr(module, "groups", 1) * per_in)
        feeds = [before(member.layer, j) for j in fed]
        result = []
        for c in range(member.width):
            first = c if member.kind == "depthwise" else c * getattr(module, "groups", 1) // member.width * per_in
            own = entries(net, member, c)
            result.append(sum(float(weight[i]) ** 2 * feeds[first + i[1]] for i in own) * after(member.layer, c))
        return result

    return reduced(groups, scores)


def obd_c_all(*case):
    """Every side of every layer instead of output filters alone."""
    return obd_c(*case, sides="all")


def obd_c_sums(*case):
    """The layers' sums averaged, instead of their shares, as in torch-pruning."""
    return obd_c(*case, shares=False)


WAYS = {
    "magnitude-l1": magnitude(1),
    "magnitude-l2": magnitude(2),
    "magnitude-l2/max": magnitude(2),
    "lamp": magnitude(2),
    "fpgm": fpgm,
    "bn-scale": bn_scale,
    "taylor": taylor,
    "obd-c": obd_c,
    "obd-c/all": obd_c_all,
    "obd-c/sums": obd_c_sums,
    "obd-hessian": obd_hessian,
    "lookahead": lookahead,
    "hrank": hrank,
    "chip": chip,
    "thinet": selection(thinet_order),
    "cp": selection(lasso_entries),
}
