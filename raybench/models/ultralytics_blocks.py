"""Replacements of ultralytics' splitting blocks: two half-width convolutions in place of one and a split.

C2f, C3k2 and C2PSA run one 1x1 convolution and split its output. A dependency graph doesn't follow the split, and
the two halves could only shrink together. Two convolutions with half the filters each compute the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raybench.models.offline import offline

with offline():
    from ultralytics.nn.modules.block import C2PSA, C2f
    from ultralytics.nn.modules.conv import Conv

HALVES = ("cv0", "cv1")  # the part that goes straight to the last convolution, the input of the inner blocks


class SplitFree(nn.Module):
    """C2f or C3k2: the last convolution takes the output of every inner block."""

    cv0: Conv
    cv1: Conv
    cv2: Conv
    m: nn.Sequential | nn.ModuleList  # inner blocks

    def __init__(self, block: C2f | C2PSA) -> None:
        super().__init__()
        for name, half in zip(HALVES, _halves(block.cv1), strict=True):
            self.add_module(name, half)
        self.m, self.cv2 = block.m, block.cv2
        for name in ("i", "f", "type", "np"):  # the block's place in ultralytics' graph
            setattr(self, name, getattr(block, name))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', h, w)."""
        parts = [self.cv0(x), self.cv1(x)]
        parts.extend(inner(parts[-1]) for inner in self.m)
        return self.cv2(torch.cat(parts, 1))


class SplitFreeAttention(SplitFree):
    """C2PSA: the last convolution takes the last inner block's output only."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', h, w)."""
        assert isinstance(self.m, nn.Sequential)  # of C2PSA; a C2f has a ModuleList
        return self.cv2(torch.cat((self.cv0(x), self.m(self.cv1(x))), 1))


REPLACEMENTS = ((C2f, SplitFree), (C2PSA, SplitFreeAttention))


def without_splits(layers: nn.Sequential) -> tuple[str, ...]:
    """Replace every splitting block of `layers` in place; returns the names of the replaced blocks."""
    replaced = []
    for name, block in list(layers.named_children()):
        for kind, split_free in REPLACEMENTS:
            if isinstance(block, kind):
                layers[int(name)] = split_free(block)
                replaced.append(name)
    return tuple(replaced)


def halved(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """A state dict in ultralytics' names with each `PREFIX.cv1` cut into its halves `PREFIX.cv0` and `PREFIX.cv1`."""
    pattern = re.compile(rf"({'|'.join(map(re.escape, prefixes))})\.cv1\.(.+)") if prefixes else re.compile(r"$.^")
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        match = pattern.fullmatch(name)
        if match is None:
            found[name] = value
            continue
        parts = value.chunk(2) if value.ndim else (value, value)  # both halves get the batch counter
        found |= {f"{match[1]}.{half}.{match[2]}": part.clone() for half, part in zip(HALVES, parts, strict=True)}
    return found


def _halves(whole: Conv) -> tuple[Conv, Conv]:
    """Two convolutions with batch norm that compute the first and the second half of `whole`'s channels."""
    conv, width = whole.conv, whole.conv.out_channels // 2
    halves = Conv(conv.in_channels, width, 1), Conv(conv.in_channels, width, 1)
    parts = halved({f"b.cv1.{name}": value for name, value in whole.state_dict().items()}, ("b",))
    for name, half in zip(HALVES, halves, strict=True):
        half.load_state_dict({key.removeprefix(f"b.{name}."): v for key, v in parts.items() if f".{name}." in key})
        half.act = whole.act
        half.bn.eps, half.bn.momentum = whole.bn.eps, whole.bn.momentum
    return halves
