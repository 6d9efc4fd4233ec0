"""raybench's selection beside torch-pruning's own progressive loop (400 steps), in one process, one model a command.

    python -m tests.benchmarks.bench_prune resnet50-32 --out DIR [--criterion NAME] [--targets 2 4 8] [--weights FILE]
    python -m tests.benchmarks.bench_prune resnet50-32 --out DIR --criterion lamp --ours-only
    python -m tests.benchmarks.bench_prune --out DIR

The first compares and keeps one JSON file a model, criterion and weights; what DIR holds is not run again, so an
interrupted series is continued by the same commands (the library's loop alone takes 1 to 17 minutes a model). The
second times raybench alone under another criterion, to be held against the library's loop that DIR has for the same
model: that loop's time is in its steps, hardly in its scores. The third prints what DIR holds.

Times are CPU seconds of this process (another load on the machine hardly moves their ratio). Weights are random unless
--weights names a file; then the norms' scales are drawn from U(0.5, 1.5), because equal scales would be ties.

Columns: the speed-up asked for and those reached by both (torch's count); CPU seconds of the library's loop up to
there, and of raybench from tracing to the last cut for this target alone and for all targets in one pass; the first
two's ratio; how many kept output channels both share (intersection over union) where the library really stopped, and
at the speed-up asked for. The library's soft floor lets a group fall below what raybench protects: `below floor`
counts the groups in which it did.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn

from raybench import registry
from raybench.cli.output import print_rows
from raybench.datasets.facts import DataFacts
from raybench.groups import surgery
from raybench.groups.cost import count_macs
from raybench.groups.records import Groups
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.models.weights import load_weights
from raybench.scoring.scorer import Scoring
from raybench.selection.records import Cut
from raybench.selection.select import select
from tests.library_loop import Stop, outputs_left, overlap, run

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # network, pixels
    "resnet20-32": (lambda: _registered("cifar-resnet20", 10, 32), 32),
    "resnet18-32": (lambda: timm.create_model("resnet18", num_classes=100), 32),
    "resnet50-32": (lambda: timm.create_model("resnet50", num_classes=100), 32),
    "resnet50-224": (lambda: timm.create_model("resnet50"), 224),
    "vgg19-bn-32": (lambda: _registered("cifar-vgg19-bn", 100, 32), 32),
    "vgg19-bn-224": (lambda: torchvision.models.vgg19_bn(), 224),
    "vit-small": (lambda: timm.create_model("vit_small_patch16_224"), 224),
    "vit-tiny": (lambda: timm.create_model("vit_tiny_patch16_224"), 224),
    "yolov8n": (lambda: _registered("yolov8n", 80, 320), 320),
}
LIBRARY = {
    "magnitude-l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "magnitude-l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "lamp": lambda: tp.importance.LAMPImportance(),
    "bn-scale": lambda: tp.importance.BNScaleImportance(),
    "fpgm": lambda: tp.pruner.importance.FPGMImportance(),  # not the paper's formula: its channels differ
}
COLUMNS = {  # of the printed table: heading -> key of a row
    "asked": "target", "library": "library_speedup", "raybench": "raybench_speedup", "library s": "library_cpu_s",
    "ours s": "raybench_cpu_s", "all s": "raybench_cpu_s_all_targets", "ratio": "ratio",
    "overlap": "overlap_same_macs", "as asked": "overlap", "below floor": "library_below_floor",
}  # fmt: skip


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=sorted(MODELS))
    parser.add_argument("--out", type=Path, default=Path("bench-prune"), help="folder for the JSON files")
    parser.add_argument("--criterion", choices=sorted(LIBRARY), default="magnitude-l2")
    parser.add_argument("--targets", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--weights", type=Path, help="trained weights; random ones without it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ours-only", action="store_true", help="time raybench alone, against the loop that DIR has")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.model:
        weights = "trained" if arguments.weights else "random"
        kind = "ours" if arguments.ours_only else "both"
        file = arguments.out / f"{arguments.model}-{weights}-{arguments.criterion}-{kind}.json"
        if not file.exists() or not json.loads(file.read_text())["complete"]:
            arguments.out.mkdir(parents=True, exist_ok=True)
            model, example = prepared(arguments.model, arguments.weights)
            measure = alone if arguments.ours_only else compare
            report = {"model": arguments.model, "weights": weights, "criterion": arguments.criterion, "rows": []}
            for row in measure(model, example, arguments.criterion, sorted(arguments.targets)):
                report["rows"].append(row)  # what there is by a kill can be looked at
                file.write_text(json.dumps(report | {"complete": False}, indent=1) + "\n")
            file.write_text(json.dumps(report | {"complete": True}, indent=1) + "\n")
    show(arguments.out)


def prepared(name: str, weights: Path | None) -> tuple[nn.Module, Tensor]:
    """The network in eval mode and one image."""
    make, pixels = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    if weights is not None:
        load_weights(model, weights)
    else:
        for module in model.modules():
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return model, torch.randn(1, 3, pixels, pixels)


def ours(
    model: nn.Module, example: Tensor, criterion: str, targets: list[float]
) -> tuple[Groups, dict[float, Cut], float]:
    """Everything raybench does, from tracing to the last physical cut: (groups, cuts, CPU seconds)."""
    scored = registry.importance.load(criterion)()
    started = time.process_time()
    groups = trace(model, example)
    cuts = select(Scoring(scored, model), example, groups, targets)
    spent = time.process_time() - started
    for cut in cuts.values():
        slim = copy.deepcopy(model)  # the copy is the benchmark's own need: it keeps the dense network
        started = time.process_time()
        surgery.apply(slim, groups, cut.kept)
        spent += time.process_time() - started
        assert count_macs(slim, example) == cut.macs
    return groups, cuts, spent


def timed(model: nn.Module, example: Tensor, criterion: str, targets: list[float]) -> dict[float, dict[str, Any]]:
    """What a row says of raybench alone, for each target."""
    ours(model, example, criterion, targets[:1])  # lazy imports and caches are nobody's time
    _, cuts, together = ours(model, example, criterion, targets)
    return {
        target: {
            "target": target,
            "raybench_speedup": round(cuts[target].speedup, 4),
            "raybench_cpu_s": round(ours(model, example, criterion, [target])[2], 3),
            "raybench_cpu_s_all_targets": round(together, 3),
            "reason": cuts[target].reason,
        }
        for target in targets
    }


def alone(model: nn.Module, example: Tensor, criterion: str, targets: list[float]) -> Iterator[dict[str, Any]]:
    """One row a target, without the library's loop."""
    yield from timed(model, example, criterion, targets).values()


def compare(model: nn.Module, example: Tensor, criterion: str, targets: list[float]) -> Iterator[dict[str, Any]]:
    """One row a target that the library's loop reaches; the loop runs once over all of them."""
    own = timed(model, example, criterion, targets)
    groups, cuts, _ = ours(model, example, criterion, targets)
    victim = copy.deepcopy(model)
    whole = [victim.get_submodule(name) for name in groups.protected]
    for stop in run(victim, example, LIBRARY[criterion](), targets, ignored=whole):
        scoring = Scoring(registry.importance.load(criterion)(), model)
        near = select(scoring, example, groups, [stop.speedup])[stop.speedup]
        row = own[stop.target] | _beside(stop, groups, cuts[stop.target], near)
        yield row | {"ratio": round(stop.seconds / row["raybench_cpu_s"], 1)}


def _beside(stop: Stop, groups: Groups, cut: Cut, near: Cut) -> dict[str, Any]:
    """What a row says of the library's loop; `near`: raybench's cut at the speed-up where that loop stopped."""
    return {
        "library_cpu_s": round(stop.seconds, 2),
        "library_steps": stop.steps,
        "library_speedup": round(stop.speedup, 4),
        "library_speedup_own_count": round(stop.speedup_tp, 4),
        "library_below_floor": _below_floor(groups, stop),
        "overlap": round(overlap(outputs_left(groups, cut.kept), stop.kept), 4),
        "overlap_same_macs": round(overlap(outputs_left(groups, near.kept), stop.kept), 4),
    }


def _below_floor(groups: Groups, stop: Stop) -> int:
    """Groups of which the library left less than the tenth that raybench protects."""
    roots = {g.name.partition(":")[0]: g for g in groups}
    widths = {name: m.width for name, g in roots.items() for m in g.members if (m.layer, m.side) == (name, "out")}
    few = [
        name for name, width in widths.items() if name in stop.kept and len(stop.kept[name]) < math.ceil(0.1 * width)
    ]
    return len(few)


def show(folder: Path) -> None:
    """Print every row that `folder` holds; times under other criteria against the library's loop under magnitude-l2."""
    files = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    loops = {
        (measured["model"], measured["weights"], row["target"]): row["library_cpu_s"]
        for measured in files
        for row in measured["rows"]
        if measured["criterion"] == "magnitude-l2" and "library_cpu_s" in row
    }
    shown = []
    for measured in files:
        for row in measured["rows"]:
            loop = loops.get((measured["model"], measured["weights"], row["target"]))
            if "ratio" not in row and loop:
                row |= {"library_cpu_s": loop, "ratio": round(loop / row["raybench_cpu_s"], 1)}
            names = {"model": measured["model"], "weights": measured["weights"], "criterion": measured["criterion"]}
            shown.append(names | {heading: row.get(key) for heading, key in COLUMNS.items()})
    print_rows(shown, ["model", "weights", "criterion", *COLUMNS])


def _registered(name: str, classes: int, pixels: int) -> nn.Module:
    half = (0.5, 0.5, 0.5)
    return build_model(name, DataFacts("images", "classification", classes, 3, pixels, half, half, ""))


if __name__ == "__main__":
    main()
