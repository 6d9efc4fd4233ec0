"""Scores by the obvious loop: what bench_scoring.py holds raybench's own forms against."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybench import registry
from raybench.groups.records import Groups, Member
from raybench.methods.contributions import sample_patches
from raybench.methods.layers import view
from raybench.methods.protocols import Calibration, has_filters

Scores = dict[tuple[str, str], np.ndarray]


def straightforward(name: str, net: nn.Module, groups: Groups, calibration: Calibration) -> Scores:
    """The same side scores by the obvious loop."""
    layers = {(m.layer, m.side): view(net, m) for m in members(groups)}
    if name in ("taylor", "obd-c", "obd-hessian"):
        return by_sample(name, net, layers, calibration)
    if name == "hrank":
        return by_matrix_rank(net, layers, groups, calibration)
    if name in ("cp", "thinet"):
        return by_contribution(name, net, layers, groups, calibration)
    if name == "fpgm":
        rows = {k: v.weight.flatten(1) for k, v in layers.items() if k[1] == "out" and v.kind in ("conv", "linear")}
        return {
            k: np.array([float((w - w[i]).norm(dim=1).double().sum()) for i in range(len(w))]) for k, w in rows.items()
        }
    power = 1 if name == "magnitude-l1" else 2
    return {
        k: np.array([float(channel.abs().pow(power).sum()) for channel in v.weight])
        for k, v in layers.items()
        if v.weight.numel()
    }


def members(groups: Groups) -> list[Member]:
    """Every side of every layer, once."""
    return list({(m.layer, m.side): m for g in groups for m in g.members}.values())


def by_sample(name: str, net: nn.Module, layers: dict, calibration: Calibration, *, together: bool = False) -> Scores:
    """One backward pass a sample; `together`: all through one batched forward pass."""
    labels = calibration.labels
    if name == "obd-c":
        with torch.no_grad():
            chances = net(calibration.images).double().softmax(1)
        labels = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    total = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    losses = F.cross_entropy(net(calibration.images), labels, reduction="none") if together else None
    for i, (image, label) in enumerate(zip(calibration.images, labels, strict=True)):
        net.zero_grad()
        loss = F.cross_entropy(net(image[None]), label[None]) if losses is None else losses[i]
        loss.backward(retain_graph=together)
        for n, p in net.named_parameters():
            total[n] += (p.grad if name == "taylor" else p.grad.square()) / len(labels)
    net.zero_grad(set_to_none=True)
    scores = {}
    for (layer, side), seen in layers.items():
        rows = total[f"{layer}.weight"]
        rows = (rows if side == "out" else rows.transpose(0, 1)).reshape(len(seen.weight), -1)
        weight = seen.weight.flatten(1)
        if name == "obd-c" and not has_filters(seen):
            continue
        squares = rows + 1e-10 if name == "obd-c" else rows
        product = (weight * rows).abs() if name == "taylor" else weight.square() * squares
        channel = product.sum(1)
        scores[layer, side] = (channel / channel.sum() if name == "obd-c" else channel).double().numpy()
    return scores


def inputs_of(net: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Input of each named layer."""
    found: dict[str, Tensor] = {}
    handles = [
        net.get_submodule(n).register_forward_hook(lambda m, i, o, n=n: found.__setitem__(n, i[0].detach()))
        for n in names
    ]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return found


def by_matrix_rank(net: nn.Module, layers: dict, groups: Groups, calibration: Calibration) -> Scores:
    """torch.linalg.matrix_rank over all maps of a layer at once."""
    watched = {m.layer for g in groups for m in registry.importance.load("hrank")().watched(g)}
    names = [n for n, side in layers if side == "in" and n in watched]
    maps = inputs_of(net, names, calibration.images)
    return {(n, "in"): torch.linalg.matrix_rank(x).double().mean(0).numpy() for n, x in maps.items()}


def by_contribution(name: str, net: nn.Module, layers: dict, groups: Groups, calibration: Calibration) -> Scores:
    """Every channel's contribution vector made and kept; greedy search and LASSO on the vectors themselves."""
    names = [n for n, side in layers if side == "in"]
    found = inputs_of(net, names, calibration.images)
    scores = {}
    for layer in names:
        seen = layers[layer, "in"]
        patches = sample_patches(seen, found[layer], 10, 0).double()  # (taps, points, channels)
        weight = seen.weight.double().flatten(2) if seen.weight.dim() > 2 else seen.weight.double()[..., None]
        terms = torch.stack([(patches[:, :, j].T @ weight[j].T).flatten() for j in range(len(weight))]).numpy()
        scores[layer, "in"] = greedy(terms) if name == "thinet" else lasso(terms)
    return scores


def greedy(terms: np.ndarray) -> np.ndarray:
    """ThiNet on the vectors: at each step the error of every candidate anew."""
    energy = float((terms.sum(0) ** 2).sum())
    left, removed, scores, last = list(range(len(terms))), np.zeros(terms.shape[1]), np.zeros(len(terms)), 0.0
    while left:
        errors = [float(((removed + terms[j]) ** 2).sum()) for j in left]
        best = int(np.argmin(errors))
        j = left.pop(best)
        removed += terms[j]
        last = scores[j] = max(errors[best] / energy, last * (1 + 2**-20))
    return scores


def lasso(terms: np.ndarray) -> np.ndarray:
    """The exact path by scikit-learn on the vectors."""
    from sklearn.linear_model import lars_path

    target = terms.sum(0)
    penalties, _, paths = lars_path(terms.T, target, method="lasso", max_iter=8 * len(terms))
    active = paths != 0
    entered = np.where(active.any(1), penalties[np.maximum(active.argmax(1) - 1, 0)], 0)
    return entered * len(target) / float((target**2).sum())
