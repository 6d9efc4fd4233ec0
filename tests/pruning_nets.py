"""Small networks whose groups can be worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import timm
import torch
from torch import Tensor, nn

from raybench.groups import surgery
from raybench.groups.cost import Cost, count_macs
from raybench.groups.records import Groups

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def drop_one_each(alive: Sequence[np.ndarray], rng: np.random.Generator) -> None:
    """Take a living unit at random out of each group that has more than two; one bool array a group, in place."""
    for left in alive:
        if left.sum() > 2:
            left[rng.choice(np.nonzero(left)[0])] = False


def assert_costs_as_predicted(model: nn.Module, groups: Groups) -> None:
    """Cut three random units of each group; MACs and parameters of the cut network must be those predicted."""
    cost, slim = Cost.measure(model, IMAGE[:1], groups), copy.deepcopy(model)
    alive, rng = [np.ones(g.size, dtype=bool) for g in groups], np.random.default_rng(0)
    for _ in range(3):
        drop_one_each(alive, rng)
    kept = {g.name: np.nonzero(left)[0] for g, left in zip(groups, alive, strict=True)}
    surgery.apply(slim, groups, kept)
    counts = np.array([len(units) for units in kept.values()])
    assert count_macs(slim, IMAGE[:1]) == cost.macs(counts) < cost.macs_base
    assert sum(p.numel() for p in slim.parameters()) == cost.params(counts)


class Branches(nn.Module):
    """stem -> (left 3 channels, right 5 channels) concatenated -> residual mix -> flatten -> classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        x = torch.relu(x + self.mix(x))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 2), 1))


class Grouped(nn.Module):
    """conv -> conv in 2 groups -> depthwise -> group norm -> transposed conv -> pool -> classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm = nn.GroupNorm(2, 12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.bn = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        x = torch.relu(self.bn(self.up(self.norm(self.depthwise(x)))))
        return self.head(x.mean((2, 3)))


class Lost(nn.Module):
    """A layer that runs outside autograd's sight."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.unseen, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.seen(x.mean((2, 3)))
        return self.head(x + self.unseen(x).detach())


class TorchAttention(nn.Module):
    """One block of a transformer with torch's own attention, in which no channel can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)
        self.fc1, self.fc2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.head((x + self.fc2(torch.relu(self.fc1(x)))).mean(1))


class FewInEach(nn.Module):
    """A convolution whose groups see one or two channels each and make twice as many of them."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1, groups=groups)
        self.last, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class Chain(nn.Module):
    """Three convolutions of 16 channels; `between` sees what the second one puts out."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(torch.relu(self.second(torch.relu(self.first(x)))))
        return self.head(torch.relu(self.third(x)).mean((2, 3)))


class Tied(nn.Module):
    """Two linear layers with one weight, and a third that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 12), nn.Linear(12, 12)
        self.right.weight = self.left.weight
        self.wide, self.twice, self.head = nn.Linear(12, 20), nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.left(torch.relu(self.first(x)).mean((2, 3))))
        x = torch.relu(self.wide(torch.relu(self.right(x))))
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


def shuffled(x: Tensor) -> Tensor:
    """ShuffleNet's channel shuffle over two groups."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class OwnAttention(nn.Module):
    """Queries, keys and values from layers of their own: a channel less would move the borders of all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 10)
        self.q, self.k, self.v, self.proj = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(x).reshape(*x.shape[:2], 4, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.proj(mixed)).mean(1))


def normed_vit() -> nn.Module:
    """`small_vit` with queries and keys normalised over each head's width."""
    torch.manual_seed(0)
    return _scales(
        timm.models.VisionTransformer(16, 4, 3, 10, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, qk_norm=True)
    )


def small_resnet(seed: int = 0) -> nn.Module:
    """A basic-block ResNet with batch norms whose scales differ (equal ones would be ties)."""
    torch.manual_seed(seed)
    block = timm.models.resnet.BasicBlock
    return _scales(timm.models.resnet.ResNet(block, (1, 1, 1, 1), 10, channels=(8, 16, 24, 32), stem_width=8))


def small_vit(seed: int = 0) -> nn.Module:
    """Two blocks, 4 heads of 8, embedding 32, MLP 64, on 16-pixel images."""
    torch.manual_seed(seed)
    return _scales(
        timm.models.VisionTransformer(16, 4, 3, 10, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, init_values=0.5)
    )


def small_swin(seed: int = 0) -> nn.Module:
    """Two stages of two blocks on 16-pixel images, windows of 4."""
    torch.manual_seed(seed)
    return _scales(
        timm.models.SwinTransformer(16, 2, 3, 10, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4)
    )


def _scales(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        elif hasattr(module, "gamma"):
            nn.init.uniform_(module.gamma, 0.3, 0.7)
    return model.eval()
