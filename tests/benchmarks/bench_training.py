"""Training beside the plain loop, interleaved in one process: images a second of both. No ray, no network.

    python -m tests.benchmarks.bench_training [NET ...] [--images 512] [--batch 128] [--turns 3] [--device cpu]
        [--only WORD ...] [--compiled] [--profile]

The plain loop is a DataLoader over PIL images, torchvision's transforms, fp32 and NCHW. Data is random and of CIFAR's
format. Each row is one variant of ours: the time of the plain loop over its own, dense and pruned to an eighth of the
MACs; for regularizers and the moving average, its time over that of an epoch without. All variants of a network take
turns, and each turn is an epoch; the figure is the median over turns of the ratio to the same turn's reference. On a
CPU, times are CPU seconds of one thread, whose ratios other work on the machine moves less than wall time. "Of a
product" is the share of the rate of one large matrix product in float32 on the same device: 3 passes of 2 operations
for each MAC. Peak memory is the most that the process (on a GPU: torch) held in the first epoch, above what it held
before. "Bare" is forward, backward and optimizer on batches that are ready, the least that an epoch can take in a
memory format; with `--compiled` also of the network that torch.compile made. On a GPU there are rows for TF32, for
kernels that are fast and not deterministic, for CUDA graphs, and for all of them together. `yolov8n` trains on
generated canvases of 320 pixels; its plain loop reads and augments as ours does, with ultralytics' code. `--profile`
prints where the time of one step goes instead.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import raybench
from raybench import registry
from raybench.datasets.data import Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.errors import NotSupported
from raybench.execution import heap
from raybench.groups.cost import count_macs
from raybench.models.build import build_model
from raybench.sweep.recipe import TrainRecipe
from tests.benchmarks import memory
from tests.benchmarks.training_epochs import Epochs

FACTS = DataFacts("cifar10", "classification", 10, 3, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "")
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
SPEEDS: Mapping[str, Mapping[str, object]] = {
    "default": {},
    "channels_last": {"memory_format": "channels_last"},
    "bf16": {"precision": "bf16"},
    "bf16 channels_last": {"precision": "bf16", "memory_format": "channels_last"},
}
FAST = {"memory_format": "channels_last", "deterministic": False}
ON_GPU: Mapping[str, Mapping[str, object]] = {
    "tf32": {"precision": "tf32"},
    "fast kernels": {"deterministic": False},
    "graphs": {"graphs": "auto"},
    "tf32, all": {"precision": "tf32", "graphs": "auto", **FAST},
    "bf16, all": {"precision": "bf16", "graphs": "auto", **FAST},
}
GRAPH_EPOCHS = 8  # of a row with graphs, whose first steps are plain and whose capture is then a small part

Epoch = Callable[[], object]


class Photos(Dataset):
    """CIFAR as torchvision's dataset gives it out: a PIL image at a time."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.transform = v2.Compose([
            v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(FACTS.mean, FACTS.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def plain(net: nn.Module, pixels: Tensor, labels: Tensor, device: torch.device, batch: int = BATCH) -> Epoch:
    """One epoch of the usual script."""
    net = copy.deepcopy(net)
    loader = DataLoader(Photos(pixels, labels), batch, shuffle=True, pin_memory=device.type == "cuda")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        net.train()
        for images, truth in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images.to(device, non_blocking=True)), truth.to(device, non_blocking=True))
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def bare(
    net: nn.Module, images: Tensor, labels: Tensor, batch: int, form: torch.memory_format, compiled: bool = False
) -> Epoch:
    """Forward, backward and optimizer of one epoch over `images` (n, c, h, w), floats on the device."""
    net = copy.deepcopy(net).train().to(memory_format=form)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    batches = [(part.contiguous(memory_format=form), truth)
               for part, truth in zip(images.split(batch), labels.split(batch), strict=True)]  # fmt: skip
    forward = torch.compile(net) if compiled else net

    def epoch() -> None:
        for part, truth in batches:
            optimizer.zero_grad()
            F.cross_entropy(forward(part), truth).backward()
            optimizer.step()

    return epoch


def bares(
    net: nn.Module, pixels: Tensor, labels: Tensor, device: torch.device, batch: int, compiled: bool
) -> dict[str, Epoch]:
    """The bare epochs in both memory formats, plain and, if asked for, compiled."""
    images, labels = pixels.to(device) / 255, labels.to(device)
    formats = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
    return {f"bare {name}{' compiled' if by_compiler else ''}": bare(net, images, labels, batch, form, by_compiler)
            for by_compiler in (False, True)[: 1 + compiled] for name, form in formats.items()}  # fmt: skip


def seconds(epoch: Epoch, device: torch.device) -> float:
    """CPU seconds of an epoch; on a GPU wall seconds until it is idle."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    epoch()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started


def take_turns(
    epochs: Mapping[str, Epoch], turns: int, device: torch.device, passes: Mapping[str, int]
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """(seconds of each epoch in each turn, its peak memory in MiB); a turn before the first one warms up.

    `passes`: of what is in truth more than one epoch, how many.
    """
    found: dict[str, list[float]] = {name: [] for name in epochs}
    peaks = {name: memory.peak(epoch, device) for name, epoch in epochs.items()}
    for _ in range(turns):
        for name, epoch in epochs.items():
            (memory.heap_as_found if name == "plain" else heap.keep_freed)()  # as a worker of raybench does
            found[name].append(seconds(epoch, device) / passes.get(name, 1))
    return found, peaks


def against(times: Mapping[str, list[float]], name: str, reference: str) -> float:
    """Median over turns of the reference's seconds over those of `name`."""
    return statistics.median(b / a for a, b in zip(times[name], times[reference], strict=True))


def measure(
    name: str, images: int, turns: int, device: torch.device, only: list[str], batch: int, compiled: bool
) -> Iterator[str]:
    """The rows of one classifier."""
    recipe = RECIPE.model_copy(update={"batch_size": batch})
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, FACTS.classes, (images,), generator=draw)
    torch.manual_seed(0)
    dense = build_model(NETS[name], FACTS).to(device)
    nets = {"dense": dense, "8x": raybench.prune(dense, torch.zeros(1, 3, 32, 32, device=device), SPEEDUP).model}
    rate_of_product = product_rate(device)
    for kind, net in nets.items():
        cost = 6 * count_macs(net, torch.zeros(1, 3, 32, 32, device=device))
        epochs = Epochs(FACTS, TensorImages(Pixels(pixels), labels, torch.arange(images)), recipe, device)
        wanted = {"plain": plain(net, pixels, labels, device, batch)}
        wanted |= bares(net, pixels, labels, device, batch, compiled)
        wanted |= {f"speed: {label}": epochs.of(net, **speed) for label, speed in SPEEDS.items() if epochs.can(speed)}
        passes = {}
        for label, speed in ON_GPU.items() if device.type == "cuda" else ():
            passes[f"speed: {label}"] = GRAPH_EPOCHS if "graphs" in speed else 1
            wanted[f"speed: {label}"] = epochs.of(net, epochs=passes[f"speed: {label}"], **speed)
        for one in registry.regularizer.entries():
            with suppress(NotSupported):  # a penalty of batch norms, and a network without them
                wanted[f"regularizer: {one}"] = epochs.of(net, regularizer=one)
        wanted["EMA"] = epochs.of(net, ema=0.999)
        wanted = {key: epoch for key, epoch in wanted.items()
                  if not only or key in ("plain", "speed: default") or any(word in key for word in only)}  # fmt: skip
        yield from rows(f"{name:<9} {kind:<6}", wanted, images, cost / rate_of_product, turns, device, passes)


def measure_detector(images: int, turns: int, device: torch.device) -> Iterator[str]:
    """The rows of YOLOv8n, whose training has no options; they alone need ultralytics."""
    from tests.benchmarks import training_detector

    rate_of_product = product_rate(device)
    for kind, made in training_detector.nets(DETECTOR, SPEEDUP, device):
        epochs = {
            "plain": training_detector.plain(made, images),
            "bare": training_detector.bare(made, images),
            "speed: default": training_detector.ours(made, images),
        }
        share = 6 * made.macs / rate_of_product
        yield from rows(f"{DETECTOR:<9} {kind:<6}", epochs, images, share, turns, device)


def rows(
    title: str, epochs: Mapping[str, Epoch], images: int, product_s: float, turns: int, device: torch.device,
    passes: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[str]:  # fmt: skip
    """A row for each of `epochs`, which take turns; `product_s`: seconds of an image's products at the full rate."""
    times, peaks = take_turns(epochs, turns, device, passes)
    for key, took in times.items():
        rate, ours = images / statistics.median(took), key == "plain" or key.startswith(("speed", "bare"))
        shown = (
            f"{against(times, key, 'plain'):6.2f} x plain"
            if ours
            else (f"{1 / against(times, key, 'speed: default'):6.3f} x the time of fine-tuning")
        )
        share = f"  {100 * rate * product_s:4.0f} % of a product" if ours else ""
        yield f"{title} {key:<28} {rate:9.1f} images/s  {shown}{share}  peak {peaks[key]} MiB"


def product_rate(device: torch.device) -> float:
    """Operations a second of one large product in float32."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device)
    found = min(seconds(lambda: a @ a, device) for _ in range(4))
    return 2 * side**3 / found


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
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread, CPU seconds"
    print(
        f"torch {torch.__version__}; {card}; {args.images} images, batch {args.batch}, {args.turns} turns", flush=True
    )
    if args.profile:
        for name in args.nets:
            print(profile(name, device))
        return
    for name in args.nets:
        if name == DETECTOR:
            found = measure_detector(args.images, args.turns, device)
        else:
            found = measure(name, args.images, args.turns, device, args.only, args.batch, args.compiled)
        for row in found:
            print(row, flush=True)


if __name__ == "__main__":
    main()
