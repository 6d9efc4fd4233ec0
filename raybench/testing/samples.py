"""Two tiny networks that the conformance check scores: residual convolutions, and tokens with layer norms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from raybench.groups.records import Group, Groups, LayerKind, Member, Side
from raybench.methods.protocols import Calibration

Described = tuple[str, LayerKind] | tuple[str, LayerKind, Side]  # layer, kind, side (default: out)


class Sample(nn.Module):
    """A minimal residual network: conv-bn-relu, one residual block of two conv-bn, pooling, a linear classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv(x))))))
        return self.fc(x.mean((2, 3)))


class Tokens(nn.Module):
    """A minimal network of tokens: patches of 2 x 2 pixels, a depthwise convolution, a residual MLP, a classifier.

    Linear layers and layer norms see (images, 16 tokens, width).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(self.patches(x)).flatten(2).mT
        x = x + self.fc2(torch.relu(self.fc1(self.norm(x))))
        return self.fc(x.mean(1))


def sample(seed: int = 0, width: int = 8) -> tuple[nn.Module, Groups, Calibration]:
    """A small residual network with random statistics, its two groups, and 12 images."""
    net, calibration = _made(Sample, seed, width)
    ends: tuple[Described, ...] = (
        ("stem", "conv"),
        ("bn0", "norm"),
        ("conv2", "conv"),
        ("bn2", "norm"),
        ("conv", "conv", "in"),
    )
    trunk = _group(width, *ends, ("fc", "linear", "in"))
    inner = _group(width, ("conv", "conv"), ("bn1", "norm"), ("conv2", "conv", "in"))
    return net, Groups((trunk, inner)), calibration


def tokens(seed: int = 0, width: int = 8) -> tuple[nn.Module, Groups, Calibration]:
    """A small network of tokens, its two groups, and 12 images."""
    net, calibration = _made(Tokens, seed, width)
    read: tuple[Described, ...] = (("norm", "norm"), ("fc1", "linear", "in"), ("fc2", "linear"), ("fc", "linear", "in"))
    trunk = _group(width, ("patches", "conv"), ("position", "depthwise"), *read)
    inner = _group(width, ("fc1", "linear"), ("fc2", "linear", "in"))
    return net, Groups((trunk, inner)), calibration


def _made(build: Callable[[int], nn.Module], seed: int, width: int) -> tuple[nn.Module, Calibration]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build(width)
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, 0.0, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None  # statistics are tracked
                module.running_var.uniform_(0.5, 2.0)
        return net, Calibration(torch.randn(12, 3, 8, 8), torch.randint(0, 4, (12,)), batch_size=5)


def _group(width: int, *sides: Described) -> Group:
    """A group of whole sides, one channel a unit, named after the first."""

    def member(layer: str, kind: LayerKind, side: Side = "out") -> Member:
        return Member(layer, kind, side, width, np.arange(width), np.arange(width))

    return Group(sides[0][0], width, tuple(member(*side) for side in sides))
