"""VGG with batch norm for small images: convolutions and one linear layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from raybench.image_size import Side, sides
from raybench.models.cifar_resnet import initialise
from raybench.registry import model

BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions in each block: configurations D and E of the paper
WIDTHS = (64, 128, 256, 512, 512)


@model("cifar-vgg16-bn", args={"depth": 16}, family="cifar-vgg", norm="batch", attention=False, task="classification")
@model("cifar-vgg19-bn", args={"depth": 19}, family="cifar-vgg", norm="batch", attention=False, task="classification")
def cifar_vgg(num_classes: int, in_channels: int, image_size: Side, *, depth: int) -> nn.Module:
    """VGG-16 or -19 (Simonyan and Zisserman 2015) with batch norm and 512 features into one linear layer.

    The variant that Network Slimming, EigenDamage and PruningBench prune: no hidden classifier layers. A block's
    max-pool is left out where an image is already one pixel wide or high.
    """
    return CifarVGG(BLOCKS[depth], num_classes, in_channels, image_size)


class CifarVGG(nn.Module):
    """Five blocks of 3x3 convolutions, each followed by a 2x2 max-pool, then average pool and linear."""

    def __init__(self, blocks: tuple[int, ...], num_classes: int, in_channels: int, image_size: Side) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = in_channels, min(sides(image_size))
        for count, width in zip(blocks, WIDTHS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if size > 1:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, classes)."""
        return self.linear(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
