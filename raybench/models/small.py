"""Networks that train in seconds: the quickstart's transformer, and two networks for tests."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from raybench.image_size import Side, sides
from raybench.registry import model


@model(
    "vit-nano",
    args={"embed_dim": 48, "depth": 3, "num_heads": 4, "class_token": False},
    norm="layer",
    attention=True,
    task="classification",
)
@model(
    "test-vit",
    args={"embed_dim": 16, "depth": 2, "num_heads": 2, "class_token": True},
    norm="layer",
    attention=True,
    task="classification",
)
def small_vit(
    num_classes: int,
    in_channels: int,
    image_size: Side,
    *,
    embed_dim: int,
    depth: int,
    num_heads: int,
    class_token: bool,
    mlp_ratio: float = 2.0,
) -> nn.Module:
    """timm's VisionTransformer with few channels, on 4 x 4 patches.

    Xavier weights ("jax"), and position embeddings of the patch embeddings' magnitude: timm's default of 0.02 for both
    suits 384 channels and long training, and costs a net of 48 channels several points after ten seconds.
    """
    height, width = sides(image_size)
    net = VisionTransformer(
        img_size=image_size,
        patch_size=(max(1, height // 4), max(1, width // 4)),
        in_chans=in_channels,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        class_token=class_token,
        global_pool="token" if class_token else "avg",
        weight_init="jax",
    )
    assert net.pos_embed is not None  # timm's default: learned embeddings
    assert isinstance(net.head, nn.Linear)  # with at least one class
    nn.init.normal_(net.pos_embed, std=0.5)
    nn.init.xavier_uniform_(net.head.weight)
    blocks: Any = net.blocks
    for block in blocks:
        block.attn.fused_attn = False  # of 16 tokens plain products take two thirds of the fused kernel's time on a CPU
    return net


@model("test-convnet", norm="batch", attention=False, task="classification")
def tiny_convnet(num_classes: int, in_channels: int, image_size: Side, *, width: int = 8) -> nn.Module:
    """Two convolutions, one residual block and a linear layer: the smallest network with every kind of coupling."""
    return TinyConvNet(num_classes, in_channels, width)


class TinyConvNet(nn.Module):
    """conv-bn-relu, a residual block of two convolutions, conv-bn-relu with stride 2, average pool, linear."""

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)) + x)
        x = F.relu(self.bn3(self.conv3(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
