"""Small nets with hand-written groups: plain, residual, depthwise, grouped, attention. Nothing of methods/ in here."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from raybench.groups.records import Group, Groups, Member


def member(layer, kind, side, width, positions=None, units=None):
    """A member whose every position is its own unit, unless told otherwise."""
    positions = np.arange(width) if positions is None else np.asarray(positions)
    return Member(
        layer, kind, side, width, positions, np.arange(len(positions)) if units is None else np.asarray(units)
    )


class Plain(nn.Module):
    """conv-bn-relu, conv-bn-relu, pool, linear."""

    def __init__(self, width=5, out=6):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, out, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(out)
        self.fc = nn.Linear(out, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))

    def groups(self):
        w, o = self.conv1.out_channels, self.conv2.out_channels
        first = (member("conv1", "conv", "out", w), member("bn1", "norm", "out", w), member("conv2", "conv", "in", w))
        second = (member("conv2", "conv", "out", o), member("bn2", "norm", "out", o), member("fc", "linear", "in", o))
        return Groups((Group("conv1", w, first), Group("conv2", o, second)))


class Residual(nn.Module):
    """A stem and one residual block: the stem, the block's end and the classifier share their channels."""

    def __init__(self, width=6, inner=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 4)

    def forward(self, x):
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))

    def groups(self):
        w, i = self.stem.out_channels, self.conv1.out_channels
        trunk = (
            member("stem", "conv", "out", w),
            member("bn0", "norm", "out", w),
            member("conv2", "conv", "out", w),
            member("bn2", "norm", "out", w),
            member("conv1", "conv", "in", w),
            member("fc", "linear", "in", w),
        )
        inner = (member("conv1", "conv", "out", i), member("bn1", "norm", "out", i), member("conv2", "conv", "in", i))
        return Groups((Group("stem", w, trunk), Group("conv1", i, inner)))


class Depthwise(nn.Module):
    """pointwise, depthwise, pointwise: the first group runs through the depthwise filters."""

    def __init__(self, width=6, out=5):
        super().__init__()
        self.expand = nn.Conv2d(3, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.dw = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.project = nn.Conv2d(width, out, 1, bias=False)
        self.fc = nn.Linear(out, 4)

    def forward(self, x):
        x = F.relu6(self.bn1(self.expand(x)))
        x = F.relu6(self.bn2(self.dw(x)))
        return self.fc(self.project(x).mean((2, 3)))

    def groups(self):
        w, o = self.expand.out_channels, self.project.out_channels
        wide = (
            member("expand", "conv", "out", w),
            member("bn1", "norm", "out", w),
            member("dw", "depthwise", "out", w),
            member("bn2", "norm", "out", w),
            member("project", "conv", "in", w),
        )
        narrow = (member("project", "conv", "out", o), member("fc", "linear", "in", o))
        return Groups((Group("expand", w, wide), Group("project", o, narrow)))


class Grouped(nn.Module):
    """A grouped convolution between two dense ones, as in ResNeXt; unit u owns channel u of both groups."""

    def __init__(self, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.bn = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4, 1)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        return self.conv3(F.relu(self.bn(self.grouped(x)))).mean((2, 3))

    def groups(self):
        w = self.conv1.out_channels
        units = np.tile(np.arange(w // 2), 2)
        before = (member("conv1", "conv", "out", w, units=units), member("grouped", "conv", "in", w, units=units))
        after = (
            member("grouped", "conv", "out", w, units=units),
            member("bn", "norm", "out", w, units=units),
            member("conv3", "conv", "in", w, units=units),
        )
        return Groups((Group("conv1", w // 2, before), Group("grouped", w // 2, after)))


class Attention(nn.Module):
    """A one-block transformer with a position embedding; head channels, the MLP and the embedding are prunable."""

    def __init__(self, dim=6, heads=2, hidden=8):
        super().__init__()
        self.heads = heads
        self.embed = nn.Conv2d(3, dim, 4, stride=4)
        self.pos = nn.Parameter(torch.randn(1, 4, dim) * 0.5)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.head = nn.Linear(dim, 4)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.pos
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5).softmax(-1) @ v
        x = x + self.proj(a.transpose(1, 2).reshape(b, n, d))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))

    def groups(self):
        d, h = self.embed.out_channels, self.fc1.out_features
        each = d // self.heads
        channel = np.tile(np.arange(each), self.heads)
        embed = (
            member("embed", "conv", "out", d),
            member("pos", "parameter", "out", d),
            member("norm1", "norm", "out", d),
            member("qkv", "linear", "in", d),
            member("proj", "linear", "out", d),
            member("norm2", "norm", "out", d),
            member("fc1", "linear", "in", d),
            member("fc2", "linear", "out", d),
            member("head", "linear", "in", d),
        )
        mlp = (member("fc1", "linear", "out", h), member("fc2", "linear", "in", h))
        heads = (
            member("qkv", "linear", "out", 3 * d, units=np.tile(channel, 3)),
            member("proj", "linear", "in", d, units=channel),
        )
        return Groups(
            (
                Group("embed", d, embed, part="embed"),
                Group("fc1", h, mlp, part="mlp"),
                Group("qkv:head-dim", each, heads, part="head-dim"),
            )
        )


# What reads what: (writer, reader, norm between them). "+in": layers whose inputs an identity shortcut adds to, "+out":
# layers whose outputs an identity shortcut carries on.
WIRES = {
    "Plain": {"": [("conv1", "conv2", "bn1"), ("conv2", "fc", "bn2")]},
    "Residual": {
        "": [("stem", "conv1", "bn0"), ("conv1", "conv2", "bn1"), ("conv2", "fc", "bn2")],
        "+in": ["fc"],
        "+out": ["stem"],
    },
    "Depthwise": {"": [("expand", "dw", "bn1"), ("dw", "project", "bn2"), ("project", "fc", None)]},
    "Grouped": {"": [("conv1", "grouped", None), ("grouped", "conv3", "bn")]},
    "Attention": {
        "": [
            ("embed", "qkv", "norm1"),
            ("qkv", "proj", None),
            ("proj", "fc1", "norm2"),
            ("fc1", "fc2", None),
            ("fc2", "head", None),
        ],
        "+in": ["fc1", "head"],
        "+out": ["embed", "proj"],
    },
}

NETS = {"plain": Plain, "residual": Residual, "depthwise": Depthwise, "grouped": Grouped, "attention": Attention}


def build(name, seed=0):
    """(net in train mode with random statistics and affine parameters, groups)."""
    torch.manual_seed(seed)
    net = NETS[name]()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
    return net, net.groups()


def images(n=6, size=8, seed=1):
    """(images, labels) for the nets above: 3 channels, 4 classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=generator), torch.randint(0, 4, (n,), generator=generator)
