"""One scoring of ResNet-50 at 32x32 by each criterion, beside the straightforward form of the same formula.

    python -m tests.benchmarks.bench_scoring [CRITERION ...] [--images 32] [--threads 1]

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
from torch import nn

from raybench import registry
from raybench.groups.records import Groups
from raybench.groups.trace import trace
from raybench.methods.contributions import ChannelSelection
from raybench.methods.layers import view
from raybench.methods.protocols import Calibration, PairwiseImportance
from raybench.scoring.gather import gather
from raybench.scoring.scorer import Scorer
from tests.benchmarks.straightforward import Scores, by_sample, members, straightforward

NARROW = 128  # widest side on which the per-channel form of cp and thinet is run
NAMES = [n for n in sorted(registry.importance.entries()) if n not in ("random", "bn-scale")]


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
            "-m",
            "tests.benchmarks.bench_scoring",
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
    """Score of every side that is scored."""
    evidence = gather(criterion, net, groups, calibration)
    found = {(m.layer, m.side): criterion.layer_scores(view(net, m, evidence=evidence)) for m in members(groups)}
    return {key: scores.double().numpy() for key, scores in found.items() if scores is not None}


def full(criterion: Any, net: nn.Module, groups: Groups, calibration: Calibration) -> list[np.ndarray | None]:
    """Normalised unit scores of all groups: what a step of pruning computes."""
    return Scorer(criterion, net, groups, gather(criterion, net, groups, calibration)).scores()


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


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def peak_mib() -> float:
    """Largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
