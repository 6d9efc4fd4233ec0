"""raybench's selection beside torch-pruning's own progressive loop (400 steps), in one process, one model a command.

    python tests/benchmarks/bench_prune.py resnet50-32 --out DIR [--criterion NAME] [--targets 2 4 8] [--threads 1]

A model that DIR already holds is not run again, so an interrupted series is continued by the same commands; the
library's loop alone takes 1 to 17 minutes a model. Times are CPU seconds of this process (another load on the
machine hardly moves their ratio). Weights are random unless --weights names a safetensors file; the norms' scales are
drawn from U(0.5, 1.5), because equal scales would be ties.

Columns: seconds of both, their ratio, the speed-up reached by both (torch's count), and how many kept output channels
they share (intersection over union): at the asked speed-up, and at the speed-up where the library really stopped.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn

from raybench import registry
from raybench.pipeline import surgery
from raybench.pipeline.cost import count_macs
from raybench.pipeline.group import trace
from raybench.pipeline.prune import select
from raybench.pipeline.records import Cut, Groups
from tests.library_loop import Stop, outputs_left, overlap, run

MODELS: dict[str, tuple[Callable[[], nn.Module], int, tuple[str, ...]]] = {  # network, pixels, layers left whole
    "resnet18-32": (lambda: timm.create_model("resnet18", num_classes=100), 32, ("fc",)),
    "resnet50-32": (lambda: timm.create_model("resnet50", num_classes=100), 32, ("fc",)),
    "resnet50-224": (lambda: timm.create_model("resnet50"), 224, ("fc",)),
    "vgg19-bn-32": (lambda: _registered("cifar-vgg19-bn", 32), 32, ()),
    "vgg19-bn-224": (lambda: torchvision.models.vgg19_bn(), 224, ("classifier.6",)),
    "vit-small": (lambda: timm.create_model("vit_small_patch16_224"), 224, ("head",)),
    "vit-tiny": (lambda: timm.create_model("vit_tiny_patch16_224"), 224, ("head",)),
}
LIBRARY = {
    "magnitude-l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "magnitude-l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "lamp": lambda: tp.importance.LAMPImportance(),
    "bn-scale": lambda: tp.importance.BNScaleImportance(),
    "fpgm": lambda: tp.pruner.importance.FPGMImportance(),  # not the paper's formula: its channels differ
}


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument(
        "--out", type=Path, default=Path("bench-prune"), help="folder for one JSON file a model and criterion"
    )
    parser.add_argument("--criterion", choices=sorted(LIBRARY), default="magnitude-l2")
    parser.add_argument("--targets", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--weights", type=Path, help="safetensors file; random weights without it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ours-only", action="store_true", help="time raybench alone, three times; nothing is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, example, whole = prepared(arguments.model, arguments.weights)
    if arguments.ours_only:
        for _ in range(3):
            print(f"{ours(model, example, arguments.criterion, arguments.targets)[2]:.2f} CPU s")
        return
    file = arguments.out / f"{arguments.model}-{arguments.criterion}.json"
    if not file.exists():
        arguments.out.mkdir(parents=True, exist_ok=True)
        rows = compare(model, example, whole, arguments.criterion, sorted(arguments.targets))
        weights = str(arguments.weights or "random")
        told = {"model": arguments.model, "criterion": arguments.criterion, "weights": weights, "rows": rows}
        file.write_text(json.dumps(told, indent=1))
    show(json.loads(file.read_text()))


def prepared(name: str, weights: Path | None) -> tuple[nn.Module, Tensor, tuple[str, ...]]:
    """The network in eval mode, one image, and the layers that keep their width."""
    make, pixels, whole = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    if weights is not None:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(weights))
    groups = trace(model, torch.randn(1, 3, pixels, pixels))
    return model, torch.randn(1, 3, pixels, pixels), whole or groups.protected


def ours(
    model: nn.Module, example: Tensor, criterion: str, targets: list[float]
) -> tuple[Groups, dict[float, Cut], float]:
    """Everything raybench does, from tracing to the last physical cut: (groups, cuts, CPU seconds)."""
    scored = registry.importance.load(criterion)()
    started = time.process_time()
    groups = trace(model, example)
    cuts = select(model, example, groups, scored, targets)
    spent = time.process_time() - started
    for cut in cuts.values():
        slim = copy.deepcopy(model)  # the copy is the benchmark's own need: it keeps the dense network
        started = time.process_time()
        surgery.apply(slim, groups, cut.kept)
        spent += time.process_time() - started
        assert count_macs(slim, example) == cut.macs
    return groups, cuts, spent


def compare(
    model: nn.Module, example: Tensor, whole: tuple[str, ...], criterion: str, targets: list[float]
) -> list[dict[str, object]]:
    """One row a target; the library's loop runs once over all of them."""
    ours(model, example, criterion, targets[:1])  # lazy imports and caches are nobody's time
    groups, cuts, seconds = ours(model, example, criterion, targets)
    victim = copy.deepcopy(model)
    rows = []
    for stop in run(victim, example, LIBRARY[criterion](), targets, ignored=[victim.get_submodule(n) for n in whole]):
        cut = cuts[stop.target]
        same = select(model, example, groups, registry.importance.load(criterion)(), [stop.speedup])[stop.speedup]
        rows.append(_row(cut, stop, seconds, groups, same))
        print(rows[-1], flush=True)
    return rows


def _row(cut: Cut, stop: Stop, seconds: float, groups: Groups, same: Cut) -> dict[str, object]:
    return {
        "target": stop.target,
        "library_cpu_s": round(stop.seconds, 2),
        "raybench_cpu_s_all_targets": round(seconds, 2),
        "ratio": round(stop.seconds / seconds, 1),
        "library_speedup": round(stop.speedup, 4),
        "library_speedup_own_count": round(stop.speedup_tp, 4),
        "raybench_speedup": round(cut.speedup, 4),
        "overlap": round(overlap(outputs_left(groups, cut.kept), stop.kept), 4),
        "overlap_same_macs": round(overlap(outputs_left(groups, same.kept), stop.kept), 4),
    }


def show(told: dict) -> None:
    """Print one model's rows."""
    print(f"{told['model']} {told['criterion']} ({told['weights']} weights)")
    for row in told["rows"]:
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))


def _registered(name: str, pixels: int) -> nn.Module:
    build = importlib.import_module("raybench.models.build").build_model
    facts = importlib.import_module("raybench.tasks.protocol").DataFacts
    half = (0.5, 0.5, 0.5)
    return build(name, facts("images", "classification", 100, 3, pixels, half, half, ""))


if __name__ == "__main__":
    main()
