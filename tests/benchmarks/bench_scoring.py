"""One scoring of ResNet-50 at 32x32 by each criterion, beside the straightforward form of the same formula.

    python tests/benchmarks/bench_scoring.py [CRITERION ...] [--images 32] [--threads 1]

Each criterion runs in a process of its own. Columns: seconds of ours (evidence and scores of all groups) and of the
straightforward form in the same process (per sample for gradients, per channel for magnitude, fpgm, cp and thinet,
batched `matrix_rank` for hrank), the largest difference relative to a side's largest score, the peak memory that
scoring added, and the floor: the one operation that can't be avoided, with the distance to it. Weights are random,
batch norms hold statistics of one batch. cp and thinet are compared in groups whose readers have at most 128 channels,
where the per-channel form is bearable; `all` is our time for every group. The difference of the gradient criteria is
that of both forms in float64: in float32 a ReLU whose input is nearly 0 flips when samples are batched, and moves a
whole gradient. CPU time, so that other load hardly matters.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from raybench import registry
from raybench.methods.contributions import ChannelSelection, sample_patches
from raybench.methods.evidence import gather
from raybench.methods.layers import view
from raybench.methods.protocols import Calibration, PairwiseImportance
from raybench.methods.scoring import Scorer
from raybench.pipeline.group import trace
from raybench.pipeline.records import Groups, Member

NARROW = 128  # widest side on which the per-channel form of cp and thinet is run
NAMES = [n for n in sorted(registry.importance.entries()) if n not in ("random", "bn-scale")]
Scores = dict[tuple[str, str], np.ndarray]


def main() -> None:
    """Run every criterion in its own process and print one row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("criteria", nargs="*", default=NAMES)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measure(args.criteria[0], args.images)))
        return
    print(f"ResNet-50 at 32x32, {args.images} images, {args.threads} thread(s), CPU seconds, torch {torch.__version__}")
    columns = ("ours", "straight", "ratio", "difference", "batched", "float64", "peak MiB", "floor", "x floor", "all")
    print(f"{'criterion':<14}" + "".join(f"{column:>11}" for column in columns))
    for name in args.criteria:
        command = [
            sys.executable,
            __file__,
            name,
            "--one",
            "--images",
            str(args.images),
            "--threads",
            str(args.threads),
        ]
        r = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        cells = [f"{r['ours']:.2f}", f"{r['straight']:.2f}", f"{r['straight'] / r['ours']:.1f}x"]
        cells += [f"{r[gap]:.1e}" for gap in ("difference", "batched", "float64")]
        cells += [f"{r['peak']:.0f}", f"{r['floor']:.2f}"]
        cells += [f"{r['ours'] / r['floor']:.1f}x", f"{r['all']:.2f}"]
        print(f"{name:<14}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def measure(name: str, images: int) -> dict[str, float]:
    """Seconds, difference and memory of one criterion."""
    net, groups, calibration = setting(images)
    criterion = registry.importance.load(name)()
    narrow = narrowed(groups) if isinstance(criterion, ChannelSelection) else groups
    floor = floors(criterion, net, calibration)  # also warms up
    resident = peak_mib()
    seconds, found = timed(lambda: sides(criterion, net, narrow, calibration))
    peak = peak_mib() - resident
    whole = timed(lambda: full(criterion, net, groups, calibration))[0]
    straight, expected = timed(lambda: straightforward(name, net, narrow, calibration))
    row = {"ours": seconds, "straight": straight, "peak": peak, "floor": floor, "all": whole}
    row["difference"] = row["batched"] = row["float64"] = largest_gap(found, expected)
    if criterion.needs in ("gradients", "sample-gradients"):
        row |= explained(name, criterion, net, groups, calibration)
    return row


def explained(name: str, criterion: Any, net: nn.Module, groups: Groups, calibration: Calibration) -> dict[str, float]:
    """Differences on four images: both forms through the same batched forward pass, and both in float64."""
    layers = {(m.layer, m.side): view(net, m) for m in members(groups)}
    few = Calibration(calibration.images[:4], calibration.labels[:4], 4)
    batched = largest_gap(sides(criterion, net, groups, few), by_sample(name, net, layers, few, together=True))
    net.double()
    few = Calibration(few.images.double(), few.labels, 4)
    return {
        "batched": batched,
        "float64": largest_gap(sides(criterion, net, groups, few), straightforward(name, net, groups, few)),
    }


def largest_gap(found: Scores, expected: Scores) -> float:
    """Largest difference of a side's scores, relative to that side's largest score."""
    return max(float(np.abs(found[k] - expected[k]).max() / max(np.abs(expected[k]).max(), 1e-30)) for k in expected)


def setting(images: int) -> tuple[nn.Module, Groups, Calibration]:
    """ResNet-50 with batch statistics in its norms, its groups, and random images."""
    torch.manual_seed(0)
    net = torchvision.models.resnet50(num_classes=100)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                nn.init.uniform_(module.weight, 0.5, 1.5)
        net.train()(torch.randn(64, 3, 32, 32))
    groups = trace(net.eval(), torch.randn(1, 3, 32, 32), classes=100)
    return net, groups, Calibration(torch.randn(images, 3, 32, 32), torch.randint(0, 100, (images,)), images)


def narrowed(groups: Groups) -> Groups:
    """Only groups whose readers are all narrow enough for the per-channel form."""
    return Groups(tuple(g for g in groups if all(m.width <= NARROW for m in g.members if m.side == "in")))


def sides(criterion: Any, net: nn.Module, groups: Groups, calibration: Calibration) -> Scores:
    """Score of every side that has a say."""
    evidence = gather(criterion, net, groups, calibration)
    found = {(m.layer, m.side): criterion.layer_scores(view(net, m, evidence=evidence)) for m in members(groups)}
    return {key: scores.double().numpy() for key, scores in found.items() if scores is not None}


def full(criterion: Any, net: nn.Module, groups: Groups, calibration: Calibration) -> list[np.ndarray | None]:
    """Normalised unit scores of all groups: what a step of pruning computes."""
    return Scorer(criterion, net, groups, gather(criterion, net, groups, calibration)).scores()


def members(groups: Groups) -> list[Member]:
    return list({(m.layer, m.side): m for g in groups for m in g.members}.values())


def floors(criterion: Any, net: nn.Module, calibration: Calibration) -> float:
    """Seconds of what can't be avoided: a batched backward or forward pass, or one reading of all weights.

    Of fpgm: the inner products of all pairs of filters, each pair once, in float64.
    """
    with torch.no_grad():
        net(calibration.images)
    if criterion.needs in ("gradients", "sample-gradients"):
        F.cross_entropy(net(calibration.images), calibration.labels).backward()

        def floor() -> None:
            F.cross_entropy(net(calibration.images), calibration.labels).backward()
    elif criterion.needs == "activations":

        def floor() -> None:
            with torch.no_grad():
                net(calibration.images)
    elif isinstance(criterion, PairwiseImportance):

        def floor() -> None:
            for filters in (p.detach().double().flatten(1) for p in net.parameters() if p.dim() > 1):
                filters[: len(filters) // 2] @ filters.t()
    else:

        def floor() -> None:
            for p in net.parameters():
                p.detach().abs().sum()

    seconds = timed(floor)[0]
    net.zero_grad(set_to_none=True)
    return seconds


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
        if v.weight is not None
    }


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
        product = (weight * rows).abs() if name == "taylor" else weight.square() * rows
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


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def peak_mib() -> float:
    """Largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
