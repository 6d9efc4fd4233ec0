"""Rules of following, operation by operation: channels that may go leave what is left as silencing them does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from raybench.groups import product_rules, shape_rules  # noqa: F401  # the rules register themselves
from raybench.groups.following import Axes, Choices, Followed
from raybench.groups.labels import FIXED
from raybench.groups.live import Live

Inputs = Mapping[str, Tensor]
X = {"x": ("-c--", (2, 8, 3, 3))}
TOKENS = {"x": ("--c", (2, 3, 8))}
TWO = {"x": ("-c--", (2, 8, 3, 3)), "y": ("-c--", (2, 8, 3, 3))}


def conv(into: int, out: int, **bias: int) -> dict:
    return {**X, "w": ("oi--", (out, into, 3, 3)), **({"b": ("o", (out,))} if bias else {})}


# operation -> (function of its tensors, these with one letter for each axis of channels, classes that may go); an axis
# with a capital has labels, too, but none of them goes
EXACT: dict[str, tuple[Callable[..., object], Mapping[str, tuple[str, tuple[int, ...]]], int]] = {
    "relu": (torch.relu, X, 8),
    "prelu": (F.prelu, {**X, "w": ("c", (8,))}, 8),
    "add": (torch.add, TWO, 8),
    "add a vector": (lambda x, y: x + y[:, None, None], {**X, "y": ("c", (8,))}, 8),
    "add one channel": (torch.add, {**X, "y": ("-c--", (2, 1, 3, 3))}, 8),
    "add numbers": (lambda x: x + torch.ones(3, 3), X, 8),
    "multiply": (torch.mul, TWO, 8),
    "where": (lambda x, y: torch.where(x > 0, x, y * 0), TWO, 8),
    "stack": (lambda x, y: torch.stack([x, y], 2), TWO, 8),
    "concat": (lambda x, y: torch.cat([x, y], 1), TWO, 16),
    "concat pixels": (lambda x, y: torch.cat([x, y], 3), TWO, 8),
    "glu": (lambda x: F.glu(x, 1), X, 4),
    "glu of tokens": (F.glu, TOKENS, 4),
    "chunk": (lambda x: torch.mul(*x.chunk(2, 1)), X, 4),
    "transpose": (lambda x: x.transpose(1, 3), X, 8),
    "turn": (lambda x: x[0, :, :, 0].T, X, 8),
    "turn by number": (lambda x: x.permute(0, 2, 3, 1), X, 8),
    "permute from the end": (lambda x: x.permute(0, -1, -3, -2), X, 8),
    "mT": (lambda x: x.mT, TOKENS, 8),
    "movedim": (lambda x: x.movedim(1, -1), X, 8),
    "unsqueeze": (lambda x: x.unsqueeze(-1), X, 8),
    "unsqueeze before": (lambda x: x.unsqueeze(0), X, 8),
    "squeeze": (lambda x: x[:1].squeeze(0), X, 8),
    "select a pixel": (lambda x: x.select(2, 1), X, 8),
    "slice of pixels": (lambda x: x[:, :, 1:, ::2], X, 8),
    "slice of channels": (lambda x: x[:, 2:5], X, 3),  # those after it
    "expand": (lambda x: x[..., None].expand(-1, -1, -1, -1, 5), X, 8),
    "expand to more axes": (lambda x: x.expand(4, -1, -1, -1, -1), X, 8),
    "flatten pixels": (lambda x: x.flatten(2), X, 8),
    "flatten all": (lambda x: x.flatten(1), X, 8),
    "unflatten": (lambda x: x.unflatten(1, (2, -1)), X, 4),
    "pad pixels": (lambda x: F.pad(x, (1, 1, 2, 0)), X, 8),
    "flip": (lambda x: x.flip(2), X, 8),
    "roll pixels": (lambda x: x.roll(1, 3), X, 8),
    "roll channels": (lambda x: x.roll(1, 1), X, 0),
    "roll all": (lambda x: x.roll(1), X, 0),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), X, 2),
    "pixel unshuffle": (lambda x: F.pixel_unshuffle(x[..., :2, :2], 2), X, 8),
    "channel shuffle": (lambda x: F.channel_shuffle(x, 2), X, 4),
    "unfold": (lambda x: F.unfold(x, 2), X, 8),
    "fold": (lambda x: F.fold(x.flatten(2), (4, 4), 2, stride=1), {"x": ("-c--", (2, 8, 3, 3))}, 2),
    "index pixels": (lambda x: x[:, :, [0, 2]], X, 8),
    "index select": (lambda x: x.index_select(2, torch.tensor([2, 0])), X, 8),
    "index channels": (lambda x: x[:, [1, 0, *range(2, 8)]], X, 0),
    "repeat pixels": (lambda x: x.repeat(1, 1, 2, 1), X, 8),
    "repeat channels": (lambda x: x.repeat(1, 2, 1, 1), X, 8),
    "sum of pixels": (lambda x: x.sum((2, 3)), X, 8),
    "sum of channels": (lambda x: x.sum(1), X, 8),
    "sum of channels, kept": (lambda x: x.sum(1, keepdim=True), X, 8),
    "sum of all": (lambda x: x.sum(), X, 8),
    "mean of pixels": (lambda x: x.mean((-1, -2), keepdim=True), X, 8),
    "largest pixel": (lambda x: x.amax(3), X, 8),
    "largest of two": (torch.max, TWO, 8),
    "average pool": (lambda x: F.avg_pool2d(x, 2), X, 8),
    "pool": (lambda x: F.max_pool2d(x, 2), X, 8),
    "pool tokens": (lambda x: F.avg_pool1d(x.mT, 2), TOKENS, 8),
    "pool over channels": (lambda x: F.avg_pool1d(x, 2), TOKENS, 0),
    "adaptive pool": (lambda x: F.adaptive_avg_pool2d(x, 1), X, 8),
    "upsample": (lambda x: F.interpolate(x, scale_factor=2), X, 8),
    "upsample between": (lambda x: F.interpolate(x, size=(5, 5), mode="bilinear"), X, 8),
    "places of an image": (
        lambda x, y: F.grid_sample(x, y, align_corners=False), {**X, "y": ("---p", (2, 3, 3, 2))}, 8,
    ),
    "unpool": (lambda x: F.max_unpool2d(*F.max_pool2d(x[..., :2, :2], 2, return_indices=True), 2), X, 8),
    "slice of the first axis": (lambda x: torch.ops.aten.slice.Tensor(x, start=1), X, 8),
    "linear": (F.linear, {**TOKENS, "w": ("oi", (5, 8)), "b": ("o", (5,))}, 13),
    "linear of fixed weight": (lambda x: F.linear(x, torch.ones(5, 8) + torch.eye(8)[:5]), TOKENS, 0),
    "product": (torch.matmul, {"x": ("-c", (3, 8)), "y": ("io", (8, 5))}, 13),
    "product of batches": (torch.bmm, {"x": ("--c", (2, 3, 8)), "y": ("-io", (2, 8, 5))}, 13),
    "product over one": (torch.bmm, {"x": ("-c-", (2, 8, 1)), "y": ("--o", (2, 1, 5))}, 13),
    "product of batches of channels": (torch.bmm, {"x": ("c--", (8, 3, 4)), "y": ("c--", (8, 4, 3))}, 8),
    "product with a bias": (torch.addmm, {"b": ("o", (5,)), "x": ("-c", (3, 8)), "y": ("io", (8, 5))}, 13),
    "product with a matrix": (torch.addmm, {"b": ("-o", (3, 5)), "x": ("-c", (3, 8)), "y": ("io", (8, 5))}, 13),
    "conv": (lambda x, w, b: F.conv2d(x, w, b), conv(8, 6, bias=1), 14),
    "grouped conv": (lambda x, w: F.conv2d(x, w, groups=2), conv(4, 6), 7),
    "depthwise conv": (lambda x, w: F.conv2d(x, w, groups=x.shape[1]), {**X, "w": ("cI--", (8, 1, 3, 3))}, 8),
    "depthwise conv of two": (
        lambda x, w: F.conv2d(x, w, groups=x.shape[1]), {**X, "w": ("cI--", (16, 1, 3, 3))}, 8,
    ),
    "transposed conv": (lambda x, w: F.conv_transpose2d(x, w), {**X, "w": ("io--", (8, 6, 3, 3))}, 14),
    "transposed depthwise conv": (
        lambda x, w: F.conv_transpose2d(x, w, groups=x.shape[1]), {**X, "w": ("iO--", (8, 1, 3, 3))}, 8,
    ),
    "transposed grouped conv": (
        lambda x, w: F.conv_transpose2d(x, w, groups=2), {**X, "w": ("io--", (8, 3, 3, 3))}, 0,
    ),
    "grouped conv of fixed weight": (lambda x: F.conv2d(x, torch.eye(8)[:, :4, None, None] + 1, groups=2), X, 0),
    "conv along channels": (lambda x, w: F.conv1d(x, w), {**TOKENS, "w": ("oi-", (5, 3, 1))}, 5),
    "deformable conv": (
        lambda x, w: deform_conv2d(x, torch.full((2, 18, 1, 1), 0.3), w), conv(8, 6), 14,
    ),
    "deformable conv of two places": (
        lambda x, w: deform_conv2d(x, torch.full((2, 36, 1, 1), 0.3), w), conv(8, 6), 6,
    ),
    "batch norm": (
        lambda x, w, b: F.batch_norm(x, torch.zeros_like(w), torch.ones_like(w), w, b),
        {**X, "w": ("c", (8,)), "b": ("c", (8,))}, 8,
    ),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.5),
        {"q": ("---c", (1, 2, 4, 8)), "k": ("---c", (1, 2, 4, 8)), "v": ("---o", (1, 2, 4, 6))}, 14,
    ),
    "attention of heads": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        {"q": ("-h-c", (1, 2, 4, 8)), "k": ("-h-c", (1, 2, 4, 8)), "v": ("-h-o", (1, 2, 4, 8))}, 10,
    ),
    "embedding": (lambda w: F.embedding(torch.tensor([[1, 0, 2]]), w), {"w": ("rc", (4, 8))}, 8),
    "a number": (lambda x: x * x.shape[0], X, 8),
    "unknown": (lambda x: torch.cumsum(x, 1), X, 0),
    "fft": (lambda x: torch.fft.fft(x, dim=1).real, X, 0),
}  # fmt: skip


def drawn(inputs: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=draw) + 0.5 for name, (_, shape) in inputs.items()}


def noted(followed: Followed, inputs: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Inputs) -> dict[str, Axes]:
    """Give every axis with a letter labels of its own, where it has several places; returns the axes."""
    axes: dict[str, Axes] = {}
    for name, (letters, shape) in inputs.items():
        axes[name] = [
            FIXED if letter == "-" else followed.labels.fresh(size) for letter, size in zip(letters, shape, strict=True)
        ]
        followed.note(tensors[name], axes[name])
    return axes


def at(axis: object, classes: np.ndarray, which: int) -> np.ndarray | None:
    """Places of `axis` that are of class `which`; None for an axis without labels."""
    return classes[axis] == which if isinstance(axis, np.ndarray) else None


def without(tensor: Tensor, axes: Axes, classes: np.ndarray, which: int) -> Tensor:
    """`tensor` without the places of class `which`."""
    for k, axis in enumerate(axes):
        gone = at(axis, classes, which)
        if gone is not None:
            tensor = tensor.index_select(k, torch.from_numpy(np.nonzero(~gone)[0]))
    return tensor


def silent(tensor: Tensor, axes: Axes, classes: np.ndarray, which: int) -> Tensor:
    """`tensor` with zeros at the places of class `which`."""
    tensor = tensor.clone()
    for k, axis in enumerate(axes):
        gone = at(axis, classes, which)
        if gone is not None:
            tensor.index_fill_(k, torch.from_numpy(np.nonzero(gone)[0]), 0)
    return tensor


@pytest.mark.parametrize("name", EXACT)
def test_what_may_go_leaves_what_is_left_as_silencing_does(name: str) -> None:
    function, inputs, free = EXACT[name]
    tensors, followed = drawn(inputs), Followed(nn.Identity(), Choices(), math.inf)
    axes = noted(followed, inputs, tensors)
    with followed:
        out = function(*tensors.values())
    made = followed.axes(out)
    classes, pinned = followed.labels.classes()
    letters = [
        (letter, axis)
        for n, (input_labels, _) in inputs.items()
        for letter, axis in zip(input_labels, axes[n], strict=True)
    ]
    may_go = {int(classes[n]) for letter, axis in letters if letter.islower() for n in axis if not pinned[n]}
    assert len(may_go) == free
    for which in may_go:
        less, zeroed = (
            function(*(change(tensors[n], axes[n], classes, which) for n in tensors)) for change in (without, silent)
        )
        torch.testing.assert_close(less, without(zeroed, made, classes, which), rtol=1e-4, atol=1e-5)


STATISTICS: dict[str, tuple[Callable[..., object], Mapping[str, tuple[str, tuple[int, ...]]]]] = {
    **{name: (lambda x, name=name: getattr(x, name)(1), X) for name in ("mean", "sum", "amax", "amin", "logsumexp")},
    **{name: (lambda x, name=name: getattr(x, name)(1)[0], X) for name in ("max", "min", "median")},
    **{name: (lambda x, name=name: getattr(x, name)(1), X) for name in ("var", "std", "norm", "prod", "softmax")},
    "all": (lambda x: (x > 0.6).all(1), X),
    "any": (lambda x: (x > 1.4).any(1), X),
    "count": (lambda x: torch.count_nonzero(x > 1, 1), X),
    "least and most": (lambda x: torch.aminmax(x, dim=1)[0], X),
    "log_softmax": (lambda x: x.log_softmax(1), X),
    "vector norm": (lambda x: torch.linalg.vector_norm(x, dim=1), X),
    "variance and mean": (lambda x: torch.var_mean(x, 1)[0], X),
    "deviation and mean": (lambda x: torch.std_mean(x, 1)[1], X),
    "layer norm": (
        lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b), {**TOKENS, "w": ("c", (8,)), "b": ("c", (8,))},
    ),
    "rms norm": (lambda x, w: F.rms_norm(x, x.shape[-1:], w), {**TOKENS, "w": ("c", (8,))}),
    "group norm": (lambda x, w: F.group_norm(x, 1, w), {**X, "w": ("c", (8,))}),
    "product": (torch.bmm, {"x": ("--c", (2, 3, 8)), "y": ("-io", (2, 8, 5))}),
    "product of two": (torch.mm, {"x": ("-c", (3, 8)), "y": ("io", (8, 5))}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "free"), [("linear", 13), ("prelu", 0)])
def test_layers_that_inference_mode_leaves_whole_are_followed_or_stay(name: str, free: int) -> None:
    """Operations that torch takes apart elsewhere arrive as one; a PReLU of a vector isn't followed then."""
    function, inputs, _ = EXACT[name]
    tensors, followed = drawn(inputs), Followed(nn.Identity(), Choices(), math.inf)
    noted(followed, inputs, tensors)
    with torch.inference_mode(), followed:
        out = function(*tensors.values())
        made = followed.axes(out)
    classes, pinned = followed.labels.classes()
    assert len(set(classes[1:][~pinned[1:]].tolist())) == free
    assert isinstance(made[-1], np.ndarray) == (free > 0)


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_see_only_what_is_left(name: str) -> None:
    """What is gone holds other numbers, which no result that is left depends on; its own places hold zeros."""
    function, inputs = STATISTICS[name]
    tensors, first = drawn(inputs), Followed(nn.Identity(), Choices(), math.inf)
    axes = noted(first, inputs, tensors)
    with first:
        made = first.axes(function(*tensors.values()))
    classes, pinned = first.labels.classes()
    assert not pinned[1:].any()
    gone = np.isin(classes, classes[axes["x"][inputs["x"][0].index("c")][:3]])
    live = Live(nn.Identity(), Choices(), math.inf, gone)
    noted(live, inputs, tensors)
    with live:
        found = function(*tensors.values())
    lost = np.where(gone, 1, 0)
    expected = function(*(without(tensors[n], axes[n], lost, 1) for n in tensors))
    torch.testing.assert_close(without(found, made, lost, 1), expected, rtol=1e-4, atol=1e-5)
    for k, axis in enumerate(made):
        if isinstance(axis, np.ndarray) and gone[axis].any() and name != "rms norm":  # it is made of several operations
            assert not found.index_select(k, torch.from_numpy(np.nonzero(gone[axis])[0])).any()
