"""The lines of the check about training: graphs, precisions, formats, resuming and memory, on generated images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.execution.isolation import free
from raybench.models.build import build_model
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.speed import Speed
from raybench.tasks.classification import Classification
from raybench.tasks.training.seeding import generator
from tests.gpu.card import Line
from tests.kept import Kept, Killed

FACTS = DataFacts("patterns", "classification", 10, 3, 32, (0.5,) * 3, (0.25,) * 3, "")
MEMORY_BOUND = 64 << 20  # bytes that a training may leave allocated
NOISE = 3.0  # points between the means of three seeds
BATCH = 128
ACCURATE = {"lr": 0.1}
# of comparisons: the same in float32, and so low that rounding moves a network by 0.0004 of its way in 20 steps, a rate
# that is wrong by a hundredth by 0.009 (measured on a CPU); at a rate of 0.03 both move it by 0.2
LOW_RATES = {"lr": 2**-13, "schedule": "step", "step_size": 1, "gamma": 0.5}
NEAR = 2e-3  # of a gap
IMAGES, EPOCHS = (1_000, 20_000), (2, 6)  # with --quick, and without


def patterns(images: int) -> Data:
    """Images of CIFAR's format: one pattern for each of ten classes, under noise that training must see through."""
    draw = generator("patterns")
    base = torch.rand(FACTS.classes, 3, 8, 8, generator=draw).repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.randint(0, FACTS.classes, (images,), generator=draw)
    noisy = base[labels] + 0.8 * torch.randn(images, 3, 32, 32, generator=draw)
    pixels, half, tenth = Pixels((noisy.clamp(0, 1) * 255).byte()), images // 2, images // 10
    spans = ((0, half), (half, half + tenth), (half + tenth, images), (0, half + tenth))
    return Data(FACTS, *(TensorImages(pixels, labels, torch.arange(*span)) for span in spans), "")


def untrained(seed: int = 0) -> nn.Module:
    """The network that every training begins with, a ResNet-20 on the CPU."""
    torch.manual_seed(seed)
    return build_model("cifar-resnet20", FACTS)


def train(data: Data, device: torch.device, epochs: int, seed: int = 0, checkpoint=None, recipe=ACCURATE, **speed):
    """(network, record of its training, accuracy on the test split) of a ResNet-20."""
    task = Classification(data, device, Speed(**speed).filled(device.type, "raybench"))
    net = untrained(seed).to(device)
    recipe = TrainRecipe(epochs=epochs, batch_size=BATCH, augment=("crop", "flip"), ema=0.9, nesterov=True, **recipe)
    trained = task.train(net, recipe, seed=seed, checkpoint=checkpoint or Kept(), select="last")
    return net, trained, task.evaluate(net, "test")["top1"]


def gap(one: nn.Module, other: nn.Module) -> float:
    """Distance of two trained networks over the way of the first from its start, all parameters as one vector."""
    start = untrained().to(next(one.parameters()).device)
    return float(_distance(one, other) / _distance(one, start))


@torch.no_grad()
def _distance(one: nn.Module, other: nn.Module) -> torch.Tensor:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return torch.stack([(a - b).square().sum() for a, b in pairs]).sum().sqrt()


def graphs(device: torch.device, quick: bool) -> Iterator[Line]:
    """A few captured steps beside plain ones, with deterministic kernels; then many in bf16 with the fast ones.

    Where the kernels are the same the gap is 0; plain steps taken twice show whether they are.
    """
    few, expected = patterns(20 * BATCH), "on" if device.type == "cuda" else "off"
    same = {"deterministic": True, "precision": "fp32", "memory_format": "nchw", "recipe": LOW_RATES}
    plain, again = (train(few, device, 2, graphs="off", **same)[0] for _ in range(2))
    yield "plain steps twice", gap(plain, again) < NEAR, f"gap {gap(plain, again):.1e}"
    captured, trained, _ = train(few, device, 2, graphs="auto", **same)
    apart, state = gap(plain, captured), trained.computing["graphs"]
    note = trained.computing["speed_note"] or "no note"
    yield "steps as CUDA graphs", state == expected and apart < NEAR, f"{state}, gap {apart:.1e}; {note}"
    data, epochs = patterns(IMAGES[not quick]), EPOCHS[not quick]
    fast = {"deterministic": False, "precision": "bf16", "memory_format": "channels_last"}
    _, trained, top1 = train(data, device, epochs, graphs="auto", **fast)
    state, note = trained.computing["graphs"], trained.computing["speed_note"] or "no note"
    yield "graphs, bf16, fast kernels", state == expected, f"{state}, accuracy {top1:.2f} %; {note}"


def precisions(device: torch.device, quick: bool) -> Iterator[Line]:
    """Each precision over three seeds, beside fp32."""
    data, epochs = patterns(IMAGES[not quick]), EPOCHS[not quick]
    means = {}
    for name in ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16"):
        found = [train(data, device, epochs, seed, precision=name)[2] for seed in range(3)]
        means[name] = sum(found) / 3
        fine = abs(means[name] - means["fp32"]) <= NOISE
        yield f"accuracy, {name}", fine, ", ".join(f"{value:.2f}" for value in found) + f" %, mean {means[name]:.2f}"


def formats(device: torch.device, quick: bool) -> Iterator[Line]:
    """The probe of memory formats."""
    trained = train(patterns(IMAGES[not quick]), device, 1, memory_format="auto")[1].computing
    chosen = trained["memory_format"]
    yield "memory format", chosen in ("nchw", "channels_last"), f"{chosen}: {trained['speed_note']}"


def resume(device: torch.device, quick: bool) -> Iterator[Line]:
    """A killed and continued run beside an unkilled one."""
    data, epochs = patterns(10 * BATCH), 2
    same = {"deterministic": True, "precision": "fp32", "graphs": "off", "recipe": LOW_RATES}
    whole, _, _ = train(data, device, epochs, **same)
    checkpoint = Kept(dies_after=1)
    try:
        train(data, device, epochs, checkpoint=checkpoint, **same)
    except Killed:
        checkpoint.left = 0
    again, trained, _ = train(data, device, epochs, checkpoint=checkpoint, **same)
    apart = gap(whole, again)
    yield "resume after a kill", trained.resumed_from == 1 and apart < NEAR, f"gap {apart:.1e}"


def memory(device: torch.device, quick: bool) -> Iterator[Line]:
    """Memory of the device after a stage, beside that before it: with plain steps, and with graphs."""
    if device.type != "cuda":
        return
    data = patterns(IMAGES[not quick])
    train(data, device, 1)  # the images stay on the device
    for what, state in (("plain steps", "off"), ("graphs", "auto")):
        free()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        train(data, device, EPOCHS[0], graphs=state)
        peak = torch.cuda.max_memory_allocated(device) >> 20
        free()  # workspaces of cuBLAS, too, as after every unit
        left = torch.cuda.memory_allocated(device) - before
        yield f"memory after {what}", left < MEMORY_BOUND, f"{left >> 20} MiB left, peak {peak} MiB"
