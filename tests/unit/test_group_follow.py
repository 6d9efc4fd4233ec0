"""Networks whose channels are followed operation by operation: each cut computes and costs what it should."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d

from raybench.groups.records import Groups
from raybench.groups.trace import trace
from tests.oracles.grouping import check_groups, worst
from tests.pruning_nets import IMAGE, OwnAttention, assert_costs_as_predicted, shuffled


class Between(nn.Module):
    """conv `first` -> `between` -> conv `last` -> classifier."""

    def __init__(self, between: nn.Module, into: int = 16, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.between = nn.Conv2d(3, width, 3, padding=1), between
        self.last, self.head = nn.Conv2d(into, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.last(self.between(self.first(x)))).mean((2, 3)))


class Does(nn.Module):
    """A function as a module, with a weight if it has a shape."""

    def __init__(self, function: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.rand(shape) + 0.5) if shape else None

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.weight is None else self.function(x, self.weight)


class OptionA(nn.Module):
    """A residual block whose shortcut is padded with zeros for the new channels (ResNet's option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 20, 3, 2, 1), nn.Conv2d(20, 24, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))


class Cbam(nn.Module):
    """A gate of every channel, then a gate of every pixel by the mean and the largest of all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.pixel = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        means, most = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(sum(self.up(torch.relu(self.down(one))) for one in (means, most)))
        return x * torch.sigmoid(self.pixel(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)))


class Eca(nn.Module):
    """A gate from a convolution along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3))[:, None]).sigmoid().transpose(1, 2)[..., None]


class Attends(nn.Module):
    """Tokens -> attention with a layer for each of q, k, v, or one for all -> gated MLP -> classifier."""

    def __init__(self, one: bool, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.fused = one, fused
        self.stem, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 10)
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 32)
        self.layers = nn.ModuleList([nn.Linear(32, 96)] if one else [nn.Linear(32, 32) for _ in range(3)])
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        parts = self.layers[0](y).chunk(3, -1) if self.one else [layer(y) for layer in self.layers]
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT * 0.35).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return self.head((x + self.fc2(F.glu(self.fc1(x)))).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer over tokens between two convolutions."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(16, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens, _ = self.layer(x.mean(3)[:, :, :4].transpose(1, 2))
        return tokens.transpose(1, 2)[..., None]


class Deformed(nn.Module):
    """A deformable convolution with offsets of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.offsets = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 18, 3, padding=1)
        self.conv = DeformConv2d(8, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inner(x))
        return self.conv(x, self.offsets(x))


class BareInside(nn.Module):
    """A product with a bare weight both of whose sides are channels of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.back = nn.Parameter(torch.rand(16, 16)), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,dc->ndhw", x, self.weight) + self.back(x)


class Cosine(nn.Module):
    """A classifier by the cosines between features and one vector for each class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.classes = nn.Parameter(torch.randn(10, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.last(torch.relu(self.first(x)))).mean((2, 3))
        return 10 * F.linear(F.normalize(x), F.normalize(self.classes))


def frozen() -> nn.Module:
    norm = FrozenBatchNorm2d(16)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 1.5)
    return norm


def eca_neighbours(x: Tensor) -> Tensor:
    return x.roll(1, 1) * x


FOLLOWED = {  # net, units of its groups
    "prelu": (Between(nn.PReLU()), {"first": 16, "last": 12}),
    "glu": (Between(nn.GLU(1), 8), {"first": 8, "last": 12}),
    "pixel-shuffle": (Between(nn.PixelShuffle(2), 4), {"first": 4, "last": 12}),
    "pixel-unshuffle": (Between(nn.PixelUnshuffle(2), 64), {"first": 16, "last": 12}),
    "option-a": (Between(OptionA(), 24), {"first": 16, "between.a": 20, "last": 12}),
    "position-map": (Between(Does(torch.add, 1, 16, 16, 16)), {"first": 16, "last": 12}),
    "position-map-narrow": (Between(Does(torch.add, 1, 8, 16, 16), 8, 8), {"first": 8, "last": 12}),
    "position-map-of-one": (Between(Does(torch.add, 16, 16, 16)), {"first": 16, "last": 12}),
    "repeat": (Between(Does(lambda x: x.repeat(1, 2, 1, 1)), 32), {"first": 16, "last": 12}),
    "flip": (Between(Does(lambda x: x.flip(1))), {"first": 16, "last": 12}),
    "roll": (Between(Does(lambda x: x.roll(3, 1))), {"last": 12}),
    "shuffle": (Between(Does(shuffled)), {"first": 8, "last": 12}),
    "exchange": (Between(Does(lambda x: x[:, [1, 0, *range(2, 16)]])), {"last": 12}),
    "mirrored-sum": (Between(Does(lambda x: x + x.flip(1))), {"first": 8, "last": 12}),
    "depthwise-2": (Between(nn.Conv2d(16, 32, 3, padding=1, groups=16), 32), {"first": 16, "last": 12}),
    "einsum": (Between(Does(lambda x, w: torch.einsum("nchw,dc->ndhw", x, w), 16, 16)), {"first": 16, "last": 12}),
    "conv2d": (Between(Does(lambda x, w: F.conv2d(x, w), 16, 16, 1, 1)), {"first": 16, "last": 12}),
    "conv2d-3x3": (Between(Does(lambda x, w: F.conv2d(x, w, padding=1), 16, 16, 3, 3)), {"first": 16, "last": 12}),
    "conv2d-depthwise": (
        Between(Does(lambda x, w: F.conv2d(x, w, padding=1, groups=x.shape[1]), 16, 1, 3, 3)),
        {"first": 16, "last": 12},
    ),
    "matmul": (
        Between(Does(lambda x, w: (x.flatten(2).mT @ w).mT.unflatten(2, (16, 16)), 16, 20), 20),
        {"first": 16, "last": 12},
    ),
    "linear": (
        Between(Does(lambda x, w: F.linear(x.movedim(1, -1), w).movedim(-1, 1), 20, 16), 20),
        {"first": 16, "last": 12},
    ),
    "between-layers": (Between(BareInside()), {"first": 16, "between.back": 16, "last": 12}),
    "frozen": (Between(frozen()), {"first": 16, "last": 12}),
    "cosine": (Cosine(), {"first": 16}),
    "eca": (Between(Eca()), {"last": 12}),
    "neighbours": (Between(Does(eca_neighbours)), {"last": 12}),
    "gru": (Between(Recurrent(nn.GRU)), {"last": 12}),
    "rnn": (Between(Recurrent(nn.RNN)), {"last": 12}),
    "lstm": (Between(Recurrent(nn.LSTM)), {"last": 12}),
    "deform": (Between(Deformed()), {"first": 16, "between.inner": 8, "last": 12}),
    "qkv": (Attends(one=True, fused=False), {"stem": 32, "layers.0": 8, "fc1": 32}),
    "qkv-fused": (Attends(one=True, fused=True), {"stem": 32, "fc1": 32}),
    "q-k-v": (Attends(one=False, fused=False), {"stem": 32, "layers.0": 8, "layers.2": 8, "fc1": 32}),
    "q-k-v-fused": (Attends(one=False, fused=True), {"stem": 32, "layers.2": 8, "fc1": 32}),
    "own-attention": (OwnAttention(), {"stem": 32, "v": 8}),
}


def traced(model: nn.Module) -> Groups:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return trace(model.eval(), IMAGE[:1])


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed_channels_can_be_cut_exactly(name: str) -> None:
    model, sizes = FOLLOWED[name]
    groups = traced(model)
    assert {g.name: g.size for g in groups} == sizes
    assert worst(check_groups(model, IMAGE, groups, unit=1)) < 1e-5
    assert_costs_as_predicted(model, groups)


def test_gates_over_all_channels_leave_them_free() -> None:
    model = Between(Cbam())
    groups = traced(model)
    assert {g.name: g.size for g in groups} == {"first": 16, "between.down": 4, "last": 12}
    assert_costs_as_predicted(model.eval(), groups)
