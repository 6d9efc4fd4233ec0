"""What raybench's training is compared with: an epoch of the usual script, and one without any input work."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from raybench.datasets.facts import DataFacts
from raybench.provenance import usable_cores

FACTS = DataFacts("cifar10", "classification", 10, 3, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "")
MOST_WORKERS = 8  # processes of a loader, as scripts have them beside a GPU

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


def workers_of(device: torch.device) -> int:
    """Loader processes of the plain loop: none on a CPU, whose core they would take."""
    return min(MOST_WORKERS, usable_cores()) if device.type == "cuda" else 0


def plain(net: nn.Module, pixels: Tensor, labels: Tensor, device: torch.device, batch: int, workers: int = 0) -> Epoch:
    """One epoch of the usual script; its loader's processes stay for the next one, as these epochs are short."""
    net = copy.deepcopy(net)
    loader = DataLoader(
        Photos(pixels, labels), batch, shuffle=True, pin_memory=device.type == "cuda", num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
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
