"""A whole selection by `lookahead`, beside the same criterion scored by the general class for criteria with neighbours.

    python -m tests.benchmarks.bench_lookahead [--models resnet18 resnet50] [--rounds 3]

Both in one process, in turns; CPU seconds of one thread, the least of the rounds. The general class lays a layer's
weights out and multiplies them with the energies on every step; the fast one keeps one matrix of saliencies a layer.
Cuts are to 2x and 4x. `difference`: the largest between the two's scores of the whole network, relative to each.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import torchvision
from torch import Tensor

from raybench.groups.trace import trace
from raybench.methods.importance.lookahead import Lookahead
from raybench.methods.importance.magnitude import MagnitudeL2
from raybench.methods.protocols import Layer
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select

TARGETS = (2.0, 4.0)


class General(Lookahead):
    """The same formula as a method of its own, so that nothing is known of its form."""

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,) of the layer's filters."""
        return super().layer_scores(layer)


def main() -> None:
    """Time both, and print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["resnet18", "resnet50"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'network':<12}{'general':>10}{'fast':>10}{'ratio':>10}{'magnitude':>12}{'difference':>14}{'same cuts':>12}"
    )
    for name in args.models:
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, num_classes=100).eval()
        image = torch.zeros(1, 3, 64, 64)
        groups = trace(net, image)
        scorings = [Scoring(criterion, net) for criterion in (General(), Lookahead(), MagnitudeL2())]
        seconds: list[list[float]] = [[], [], []]
        cuts = []
        for _ in range(args.rounds):
            for scoring, taken in zip(scorings, seconds, strict=True):
                began = time.process_time()
                cuts.append(select(scoring, image, groups, TARGETS))
                taken.append(time.process_time() - began)
        general, fast, magnitude = map(min, seconds)
        pairs = zip(*(scoring.scorer(groups).scores() for scoring in scorings[:2]), strict=True)
        gap = max(float(np.abs(a / b - 1).max()) for a, b in pairs if a is not None and b is not None)
        same = all(cuts[0][target].kept == cuts[1][target].kept for target in TARGETS)
        row = f"{name:<12}{general:>10.2f}{fast:>10.2f}{general / fast:>9.1f}x{magnitude:>12.2f}{gap:>14.1e}"
        print(row + f"{'yes' if same else 'no':>12}", flush=True)


if __name__ == "__main__":
    main()
