"""ResNets for small images: the thin ones of He et al. (2016, section 4.2), and ImageNet's with a 3x3 stem."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from raybench.image_size import Side
from raybench.registry import model


@model("cifar-resnet20", args={"depth": 20}, family="thin-resnet", norm="batch", attention=False, task="classification")
@model("cifar-resnet32", args={"depth": 32}, family="thin-resnet", norm="batch", attention=False, task="classification")
@model("cifar-resnet44", args={"depth": 44}, family="thin-resnet", norm="batch", attention=False, task="classification")
@model("cifar-resnet56", args={"depth": 56}, family="thin-resnet", norm="batch", attention=False, task="classification")
@model(
    "cifar-resnet110", args={"depth": 110}, family="thin-resnet", norm="batch", attention=False, task="classification"
)
def thin_resnet(num_classes: int, in_channels: int, image_size: Side, *, depth: int, width: int = 16) -> nn.Module:
    """CIFAR ResNet: depth = 6n+2, three stages of n basic blocks, 16/32/64 channels (He et al. 2016, section 4.2).

    Where the shape changes the shortcut is a 1x1 convolution without norm, so that the published zero-padding
    ("option A") is a special case of its weights, and it can be pruned like any other layer.
    """
    blocks = (depth - 2) // 6
    return ThinResNet([blocks] * 3, num_classes, in_channels, width)


@model("cifar-resnet18", args={"depth": 18}, family="wide-resnet", norm="batch", attention=False, task="classification")
@model("cifar-resnet50", args={"depth": 50}, family="wide-resnet", norm="batch", attention=False, task="classification")
def wide_resnet(num_classes: int, in_channels: int, image_size: Side, *, depth: int) -> nn.Module:
    """ImageNet's ResNet with a 3x3 stride-1 stem and no max-pool, 64 to 512 channels: PruningBench's CIFAR-100 nets."""
    if depth == 18:
        return WideResNet(Basic, (2, 2, 2, 2), num_classes, in_channels)
    return WideResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels)


class ThinBlock(nn.Module):
    """Two 3x3 convolutions; ``layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}`` as published checkpoints name them."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, channels, h/stride, w/stride)."""
        inner = rectified(self.bn1, self.conv1(x))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x), inplace=self.training)


class ThinResNet(nn.Module):
    """Stem, three stages that halve the image and double the width, average pool, linear."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, blocks: list[int], num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(blocks):
            wide = width * 2**stage
            layers = [ThinBlock(channels, wide, 1 if stage == 0 else 2)]
            layers += [ThinBlock(wide, wide, 1) for _ in range(count - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
            channels = wide
        self.linear = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, classes)."""
        x = rectified(self.bn1, self.conv1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut with norm where the shape changes (option B)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, channels, h/stride, w/stride)."""
        inner = rectified(self.bn1, self.conv1(x))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x), inplace=self.training)


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.shortcut = projection(in_channels, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, 4 * channels, h/stride, w/stride)."""
        inner = rectified(self.bn1, self.conv1(x))
        inner = rectified(self.bn2, self.conv2(inner))
        return F.relu(self.bn3(self.conv3(inner)) + self.shortcut(x), inplace=self.training)


class WideResNet(nn.Module):
    """Stem, four stages of 64, 128, 256, 512 channels, average pool, linear."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self, block: type[Basic] | type[Bottleneck], blocks: tuple[int, ...], num_classes: int, in_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(blocks):
            layers: list[nn.Module] = []
            for number in range(count):
                layers.append(block(channels, 64 * 2**stage, 2 if stage and number == 0 else 1))
                channels = 64 * 2**stage * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, classes)."""
        x = rectified(self.bn1, self.conv1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def rectified(norm: nn.Module, x: Tensor) -> Tensor:
    """ReLU of `norm`'s output; in training in its memory, which costs less, unless a hook may have kept that output."""
    hooked = norm._forward_hooks or norm._backward_hooks or norm._backward_pre_hooks
    return F.relu(norm(x), inplace=norm.training and type(norm) is nn.BatchNorm2d and not hooked)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut of a block: identity, or a 1x1 convolution with norm where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def initialise(net: nn.Module) -> None:
    """He et al. 2015: normal weights of variance 2 / fan-out for convolutions."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
