"""Training beside the plain loop, interleaved in one process: images a second of both. No ray, no network.

    python -m tests.benchmarks.bench_training [NET ...] [--images 512] [--batch 128] [--turns 3] [--device cpu]
        [--only WORD ...] [--compiled] [--busy] [--grid] [--profile]

The plain loop is a DataLoader over PIL images, torchvision's transforms, fp32 and NCHW; beside a GPU with worker
processes, and once more without. Data is random and of CIFAR's format. Each row is one variant of ours: the time of the
plain loop over its own, dense and pruned to an eighth of the MACs (dense alone without torch-pruning); for regularizers
and the moving average, its time over that of an epoch without. All variants of a network take turns, and each turn is
an epoch; the figure is the median over turns of the ratio to the same turn's reference. On a CPU, times are CPU seconds
of one thread, whose ratios other work on the machine moves less than wall time. On a GPU a turn is the median of three
epochs after those in which kernels are chosen, graphs are captured and networks compiled; what compiles is trained once
and its row says what compiling took. "Of a product" is the share of the rate of one large matrix product on the same
device, in the precision that the row trains in: 3 passes of 2 operations for each MAC. The plain loop and bare epochs
on a GPU are compared with TF32, in which torch's convolutions are by default. Peak memory is the most that the process
(on a GPU: torch) held in the first epoch, above what it held before. "Bare" is forward, backward and optimizer on
batches that are ready, the least that an epoch can take in a memory format; with `--compiled` also of the network that
torch.compile made. On a GPU there are rows for TF32, for kernels that are fast and not deterministic, for CUDA graphs,
for all of them together, and for that compiled. `--busy` adds the share of an epoch's time in which the GPU works, by
torch's profiler and by the driver (as nvidia-smi shows it). `--grid` ends with the time that sweeps/paper-
cifar100.yaml would take, by the estimate of `raybench plan`. `yolov8n` trains on generated canvases of 320 pixels;
its plain loop reads and augments as ours does, with ultralytics' code. `--profile` prints where the time of one step
goes instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import nn

from raybench import registry
from raybench.datasets.data import Pixels, TensorImages
from raybench.errors import NotSupported
from raybench.execution import heap
from raybench.groups.cost import count_macs
from raybench.models.build import build_model
from raybench.sweep.recipe import TrainRecipe
from tests.benchmarks import grid, memory
from tests.benchmarks.plain_loop import FACTS, Epoch, bares, plain, workers_of
from tests.benchmarks.products import PRECISIONS, product_rate
from tests.benchmarks.training_epochs import Epochs, Run

NETS = {
    "resnet20": "cifar-resnet20",
    "resnet18": "cifar-resnet18",
    "vgg19": "cifar-vgg19-bn",
    "resnet50": "cifar-resnet50",
    "vit-small": "vit-small",
}
DETECTOR = "yolov8n"
BATCH, SPEEDUP = 128, 8.0
RECIPE = TrainRecipe(epochs=1, batch_size=BATCH, lr=0.01, schedule="constant", augment=("crop", "flip"))
Speeds = Mapping[str, Mapping[str, object]]
SPEEDS: Speeds = {
    "default": {},
    "channels_last": {"memory_format": "channels_last"},
    "bf16": {"precision": "bf16"},
    "bf16 channels_last": {"precision": "bf16", "memory_format": "channels_last"},
}
FAST = {"memory_format": "channels_last", "deterministic": False}
ON_GPU: Speeds = {
    "tf32": {"precision": "tf32"},
    "fast kernels": {"deterministic": False},
    "graphs": {"graphs": "auto"},
    "tf32, all": {"precision": "tf32", "graphs": "auto", **FAST},
    "bf16, all": {"precision": "bf16", "graphs": "auto", **FAST},
    "bf16, all, compiled": {"precision": "bf16", "graphs": "auto", "compile": "auto", **FAST},
}
WATCHED = ("speed: bf16, all", "speed: default")  # whose GPU time is asked for
GOALS = {"resnet20": (8.0, None), "resnet18": (4.0, 45.0), "vgg19": (None, 45.0)}  # times the plain loop, % of the peak


@dataclass(frozen=True)
class Case:
    """What is measured of every network."""

    device: torch.device
    images: int = 512
    turns: int = 3
    batch: int = BATCH
    only: tuple[str, ...] = ()  # words of the variants beside plain and default; none: all
    leave_out: str = "-"  # a word of those that are left out
    compiled: bool = False  # also bare epochs
    busy: bool = False
    kinds: tuple[str, ...] = ("dense", "8x")


@dataclass(frozen=True)
class Row:
    """One variant of one network's training."""

    net: str
    kind: str  # dense, or 8x
    key: str
    images_s: float
    peak_mb: int
    x_plain: float | None = None  # times as fast as the plain loop
    x_time: float | None = None  # for regularizers and averages: time over that of fine-tuning
    share: float | None = None  # % of the rate of a product
    product: str = ""  # its precision
    note: str = ""

    def __str__(self) -> str:
        shown = f"{self.x_time:6.3f} x the time of fine-tuning" if self.x_time else f"{self.x_plain:6.2f} x plain"
        share = f"  {self.share:4.0f} % of a product in {self.product}" if self.share is not None else ""
        note = f"  ({self.note})" if self.note else ""
        title = f"{self.net:<9} {self.kind:<6} {self.key:<28}"
        return f"{title} {self.images_s:9.1f} images/s  {shown}{share}  peak {self.peak_mb} MiB{note}"


@dataclass
class Turns:
    """Epochs that take turns, and what was measured of them."""

    epochs: Mapping[str, Epoch]
    device: torch.device
    took: dict[str, list[float]] = field(default_factory=dict)  # seconds of an epoch in each turn
    peaks: dict[str, int] = field(default_factory=dict)  # MiB

    def take(self, turns: int) -> None:
        """All epochs once, which warms up, then `turns` times; what is compiled only once."""
        for key, epoch in self.epochs.items():
            own: list[float | None] = []
            self.peaks[key] = memory.peak(lambda epoch=epoch, own=own: own.append(seconds(epoch, self.device)[1]),
                                          self.device)  # fmt: skip
            self.took[key] = [one for one in own if one is not None]  # it has warmed up by itself
        for _ in range(turns):
            for key, epoch in self.epochs.items():
                if not (isinstance(epoch, Run) and epoch.compiled):
                    (memory.heap_as_found if key == "plain" else heap.keep_freed)()  # as a worker of raybench does
                    self.took[key].append(seconds(epoch, self.device)[0])

    def each(self, key: str) -> float:
        """Median seconds of an epoch."""
        return statistics.median(self.took[key])

    def against(self, key: str, reference: str) -> float:
        """Median over turns of the reference's seconds over those of `key`; of medians where their turns differ."""
        own, other = self.took[key], self.took[reference]
        if len(own) != len(other):
            return self.each(reference) / self.each(key)
        return statistics.median(b / a for a, b in zip(own, other, strict=True))


def seconds(epoch: Epoch, device: torch.device) -> tuple[float, float | None]:
    """(seconds of an epoch: CPU seconds, on a GPU of the clock until it is idle; the same if it says them itself)."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    own = epoch()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    itself = own if isinstance(own, float) else None
    return itself or clock() - started, itself


def variants(net: nn.Module, data: tuple[torch.Tensor, torch.Tensor], case: Case) -> dict[str, Epoch]:
    """Every variant that `case` wants, by name."""
    (pixels, labels), device = data, case.device
    recipe, workers = RECIPE.model_copy(update={"batch_size": case.batch}), workers_of(device)
    epochs = Epochs(FACTS, TensorImages(Pixels(pixels), labels, torch.arange(len(pixels))), recipe, device)
    found: dict[str, Epoch] = {"plain": plain(net, pixels, labels, device, case.batch, workers)}
    if workers:
        found["plain, no workers"] = plain(net, pixels, labels, device, case.batch)
    found |= bares(net, pixels, labels, device, case.batch, case.compiled)
    speeds = SPEEDS | (ON_GPU if device.type == "cuda" else {})
    found |= {f"speed: {label}": epochs.of(net, **speed) for label, speed in speeds.items()}
    if has_torch_pruning():
        for one in registry.regularizer.entries():
            with suppress(NotSupported):  # a penalty of batch norms, and a network without them
                found[f"regularizer: {one}"] = epochs.of(net, regularizer=one)
    found["EMA"] = epochs.of(net, ema=0.999)
    wanted = ("plain", "speed: default")
    return {key: epoch for key, epoch in found.items() if case.leave_out not in key
            and (not case.only or key in wanted or any(word in key for word in case.only))}  # fmt: skip


def measure(name: str, case: Case) -> Iterator[Row | str]:
    """The rows of one classifier; with `case.busy` lines about how busy the GPU is follow."""
    draw, image = torch.Generator().manual_seed(0), torch.zeros(1, 3, 32, 32, device=case.device)
    pixels = torch.randint(0, 256, (case.images, 3, 32, 32), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, FACTS.classes, (case.images,), generator=draw)
    torch.manual_seed(0)
    nets = {"dense": build_model(NETS[name], FACTS).to(case.device)}
    if "8x" in case.kinds and has_torch_pruning():
        import raybench

        nets["8x"] = raybench.prune(nets["dense"], image, SPEEDUP).model
    rates = {precision: product_rate(case.device, precision) for precision in on_device(PRECISIONS, case.device)}
    for kind, net in nets.items():
        if kind in case.kinds:
            turns = Turns(variants(net, (pixels, labels), case), case.device)
            turns.take(case.turns)
            yield from rows((name, kind), turns, case.images, 6 * count_macs(net, image), rates)
            yield from busy_lines((name, kind), turns) if case.busy else ()


def on_device(precisions: tuple[str, ...], device: torch.device) -> list[str]:
    """Those of the precisions that `device` has."""
    return [one for one in precisions if one != "tf32" or device.type == "cuda"]


def measure_detector(case: Case) -> Iterator[Row]:
    """The rows of YOLOv8n, whose training has no options; they alone need ultralytics."""
    from tests.benchmarks import training_detector

    rates = {"fp32": product_rate(case.device)}
    for kind, made in training_detector.nets(DETECTOR, SPEEDUP, case.device):
        turns = Turns({
            "plain": training_detector.plain(made, case.images),
            "bare": training_detector.bare(made, case.images),
            "speed: default": training_detector.ours(made, case.images),
        }, case.device)  # fmt: skip
        turns.take(case.turns)
        yield from rows((DETECTOR, kind), turns, case.images, 6 * made.macs, rates)


def rows(of: tuple[str, str], turns: Turns, images: int, operations: int, rates: Mapping[str, float]) -> Iterator[Row]:
    """A row for each epoch of `turns`; `operations`: of an image; `rates`: of products, by precision."""
    for key, epoch in turns.epochs.items():
        rate, note = images / turns.each(key), epoch.note if isinstance(epoch, Run) else ""
        measured = (*of, key, rate, turns.peaks[key])
        if key.startswith(("plain", "speed", "bare")):
            product = product_of(key, rates)
            share = 100 * rate * operations / rates[product]
            yield Row(*measured, turns.against(key, "plain"), None, share, product, note)
        else:
            yield Row(*measured, None, 1 / turns.against(key, "speed: default"), note=note)


def product_of(key: str, rates: Mapping[str, float]) -> str:
    """The precision of the product that a row is compared with."""
    named = [one for one in PRECISIONS if one in key]
    if named:
        return named[0]
    return "tf32" if key.startswith(("plain", "bare")) and "tf32" in rates else "fp32"


def busy_lines(of: tuple[str, str], turns: Turns) -> Iterator[str]:
    """How much of an epoch's time the GPU works: in the profiler over the epoch's without one, and by the driver."""
    for key in WATCHED:
        epoch = turns.epochs.get(key)
        if isinstance(epoch, Run) and epoch.warm:
            took = turns.each(key)
            sampled, worked = epoch.utilization(took), epoch.busy_s()
            by_profiler = "saw no kernel" if worked is None else f"{100 * worked / took:.0f} %"
            by_driver = "can't be asked" if sampled is None else f"{100 * sampled:.0f} %"
            yield f"{of[0]:<9} {of[1]:<6} {key:<28} GPU busy: the profiler {by_profiler}, the driver {by_driver}"


def goals(found: list[Row]) -> Iterator[str]:
    """What was asked of dense networks on a GPU, beside the best row."""
    for name, (times, percent) in GOALS.items():
        own = [row for row in found if (row.net, row.kind) == (name, "dense") and row.key.startswith("speed")]
        if not own:
            continue
        fastest = max(own, key=lambda row: row.x_plain or 0)
        parts = [f"{fastest.x_plain:.2f} x plain (goal {times:g})"] if times else []
        parts += [f"{fastest.share:.0f} % of a product in {fastest.product} (goal {percent:g})"] if percent else []
        yield f"{name:<9} best: {fastest.key.removeprefix('speed: ')}: {', '.join(parts)}"


def has_torch_pruning() -> bool:
    """Whether networks can be cut here."""
    return importlib.util.find_spec("torch_pruning") is not None


def profile(name: str, device: torch.device, **speed: str) -> str:
    """Where the time of one epoch of a batch goes, by operator."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=draw, dtype=torch.uint8)
    images = TensorImages(Pixels(pixels), torch.arange(BATCH) % FACTS.classes, torch.arange(BATCH))
    epoch = Epochs(FACTS, images, RECIPE, device).of(build_model(NETS[name], FACTS).to(device), **speed)
    epoch()
    with torch.profiler.profile() as profiled:
        epoch()
    key = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
    return profiled.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=40)


def main() -> None:
    """Print one row for each network and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=["resnet20", "resnet18"])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=BATCH, help="images of a step of a classifier")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", default=[], help="words of the variants to run beside plain and default")
    parser.add_argument("--compiled", action="store_true", help="compile the bare epochs, too; takes minutes")
    parser.add_argument("--busy", action="store_true", help="how much of the time a GPU works")
    parser.add_argument("--grid", action="store_true", help="what the grid on CIFAR-100 would take at these rates")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    case = Case(device, args.images, args.turns, args.batch, tuple(args.only), compiled=args.compiled, busy=args.busy)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread, CPU seconds"
    loader = f"{workers_of(device)} loader processes of the plain loop"
    print(f"torch {torch.__version__}; {card}; {case.images} images, batch {case.batch}, {case.turns} turns; {loader}",
          flush=True)  # fmt: skip
    if args.profile:
        for name in args.nets:
            print(profile(name, device))
        return
    found: list[Row] = []
    for name in args.nets:
        for row in measure_detector(case) if name == DETECTOR else measure(name, case):
            found += [row] if isinstance(row, Row) else []
            print(row, flush=True)
    for line in (*(goals(found) if device.type == "cuda" else ()), *(grid.lines(found) if args.grid else ())):
        print(line, flush=True)


if __name__ == "__main__":
    main()
