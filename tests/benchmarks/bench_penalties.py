"""CPU seconds of a training step with each regularizer, trained selection and moving average, over a plain step.

    python -m tests.benchmarks.bench_penalties cifar-resnet20 --speedup 8

All steps are on one random batch of 32 x 32 pixels, in turns; the figure is the median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

import raybench
from raybench import registry
from raybench.datasets.facts import DataFacts
from raybench.errors import NotSupported
from raybench.groups.trace import trace
from raybench.methods.protocols import Regularizer
from raybench.models.build import build_model
from raybench.selection.trained import budget_of
from raybench.sweep.recipe import TrainRecipe
from raybench.tasks.training.computing import Computing
from raybench.tasks.training.ema import Average
from raybench.tasks.training.mix import Mixed
from raybench.tasks.training.optimize import make_optimizer, set_apart
from raybench.tasks.training.progress import TrainingState
from raybench.tasks.training.steps import Stepper

CPU, CLASSES = torch.device("cpu"), 10
EXAMPLE = torch.zeros(1, 3, 32, 32)
RECIPE = TrainRecipe(epochs=10, lr=0.01)
Step = Callable[[], object]


def variants(net: nn.Module, batch: Mixed) -> Iterator[tuple[str, Step]]:
    """A step of each kind, on a copy of `net` of its own; those that the network can't have are left out."""
    yield "plain", _step(copy.deepcopy(net), None, batch)
    yield "ema", _step(copy.deepcopy(net), None, batch, average=True)
    for names, hooked in ((registry.regularizer, _penalty), (registry.selection, _selection)):
        for name in names.entries():
            own = copy.deepcopy(net)
            try:
                yield name, _step(own, hooked(name, own), batch)
            except NotSupported as error:
                print(f"{name}: {error}")


def _penalty(name: str, net: nn.Module) -> Regularizer:
    found: Regularizer = registry.regularizer.load(name)()
    found.bind(net, trace(net, EXAMPLE, classes=CLASSES))
    return found


def _selection(name: str, net: nn.Module) -> Regularizer:
    found = registry.selection.load(name)()
    groups = trace(net, EXAMPLE, classes=CLASSES)
    how = {"strategy": "global", "round_to": 1, "seed": 0, "epochs": RECIPE.epochs}
    found.attach(net, budget_of(net, EXAMPLE, groups, 2.0, **how))
    return found


def _step(net: nn.Module, hook: Regularizer | None, batch: Mixed, average: bool = False) -> Step:
    optimizer = set_apart(make_optimizer(net.train(), RECIPE, CPU), hook)
    progress = TrainingState(net, optimizer, Average(net, 0.99) if average else None, hook)
    return partial(Stepper(RECIPE, Computing(), CPU, None, 1), progress, batch)


def _seconds(step: Step) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def main() -> None:
    """Parse the command line and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--speedup", type=float, default=1.0, help="prune it first; default: dense")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    facts = DataFacts("random", "classification", CLASSES, 3, 32, (0.5,) * 3, (0.25,) * 3, "")
    net = build_model(asked.model, facts).eval()
    if asked.speedup > 1:
        net = raybench.prune(net, EXAMPLE, speedup=asked.speedup, criterion="magnitude-l2").model
    labels = torch.randint(0, CLASSES, (asked.batch,))
    steps = dict(variants(net, Mixed(torch.randn(asked.batch, 3, 32, 32), labels, labels)))
    turns = [{name: _seconds(step) for name, step in steps.items()} for _ in range(2 + asked.turns)][2:]
    print(f"plain: {1e3 * statistics.median(turn['plain'] for turn in turns):.1f} ms")
    for name in steps:
        print(f"{name:16} {statistics.median(turn[name] / turn['plain'] for turn in turns):.2f}")


if __name__ == "__main__":
    main()
