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


def train(data: Data, device: torch.device, epochs: int, seed: int = 0, checkpoint=None, **speed):
    """(network, what training told, accuracy on the test split) of a ResNet-20."""
    task = Classification(data, device, Speed(**speed).filled(device.type, "raybench"))
    torch.manual_seed(seed)
    net = build_model("cifar-resnet20", FACTS).to(device)
    recipe = TrainRecipe(epochs=epochs, batch_size=BATCH, lr=0.1, nesterov=True, augment=("crop", "flip"), ema=0.9)
    trained = task.train(net, recipe, seed=seed, checkpoint=checkpoint or Kept(), select="last")
    return net, trained, task.evaluate(net, "test")["top1"]


def largest_gap(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of two networks' weights, as a share of the largest weight."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max() / a.detach().abs().max()) for a, b in pairs)


def graphs(device: torch.device, quick: bool) -> Iterator[Line]:
    """A run of captured steps beside plain ones, with deterministic kernels; then in bf16 with the fast ones."""
    data, epochs = patterns(IMAGES[not quick]), EPOCHS[not quick]
    same = {"deterministic": True, "precision": "fp32", "memory_format": "nchw"}
    plain, _, _ = train(data, device, epochs, graphs="off", **same)
    captured, trained, _ = train(data, device, epochs, graphs="auto", **same)
    gap, state = largest_gap(plain, captured), trained.computing["graphs"]
    expected = "on" if device.type == "cuda" else "off"
    note = trained.computing["speed_note"] or "no note"
    yield "steps as CUDA graphs", state == expected and gap < 1e-3, f"{state}, largest gap {gap:.1e}; {note}"
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
    data, epochs = patterns(IMAGES[not quick]), EPOCHS[0]
    same = {"deterministic": True, "precision": "fp32", "graphs": "off", "memory_format": "channels_last"}
    whole, _, _ = train(data, device, epochs, **same)
    checkpoint = Kept(dies_after=1)
    try:
        train(data, device, epochs, checkpoint=checkpoint, **same)
    except Killed:
        checkpoint.left = 0
    again, trained, _ = train(data, device, epochs, checkpoint=checkpoint, **same)
    gap = largest_gap(whole, again)
    yield "resume after a kill", trained.resumed_from == 1 and gap < 1e-5, f"largest gap {gap:.1e}"


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
