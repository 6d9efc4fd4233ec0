"""How labels of channels pass through operations that move, join or divide axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raybench.groups.following import Axes, Call, Followed, rule
from raybench.groups.labels import ANY, FIXED, Axis

ENDLESS = 2**62  # ends of slices above it are open


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "unflatten", "flatten", "squeeze", "unsqueeze", "view_as",
      "_reshape_copy")  # fmt: skip
def reshaped(followed: Followed, call: Call) -> list[Axes] | None:
    """Axes are merged and divided in the order of memory."""
    x = call.args[0]
    axes = followed.axes(x)
    if len(axes) != x.dim():  # changed in place
        return None
    return [_regrouped(followed, axes, x.shape, call.out[0].shape)]


def _regrouped(followed: Followed, axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """The new axes, block by block: a block is the fewest neighbouring axes whose sizes have equal products."""
    found: Axes = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i], [j]
        a, b = (old[i] if i < len(old) else 1), (new[j] if j < len(new) else 1)
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
                left.append(i - 1)
            else:
                b, j = b * new[j], j + 1
                right.append(j - 1)
        sources = [k for k in left if k < len(old)]
        targets = [new[k] for k in right if k < len(new)]
        found += _block(followed, [axes[k] for k in sources], [old[k] for k in sources], targets)
    return found


def _block(followed: Followed, axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    wide = [(axis, n) for axis, n in zip(axes, old, strict=True) if n > 1]
    if len([n for n in new if n > 1]) == len(wide) == 1:
        return [wide[0][0] if n > 1 else ANY for n in new]
    if len(wide) <= 1 and not any(n > 1 for n in new):
        single = [axis for axis in axes if isinstance(axis, np.ndarray)]
        return [single[0] if single and k == len(new) - 1 else ANY for k in range(len(new))]
    return _divided(followed, _merged(followed, wide), new)


def _merged(followed: Followed, wide: Sequence[tuple[Axis, int]]) -> Axis:
    """The labels of neighbouring axes as one axis. Two axes with labels have no labels together: the first is kept."""
    named = [k for k, (axis, _) in enumerate(wide) if isinstance(axis, np.ndarray)]
    if not named:
        return ANY if all(axis is ANY for axis, _ in wide) else FIXED
    for k in named[:-1]:
        followed.pin(wide[k][0], "a reshape that joins two axes of channels")
    last = named[-1]
    axis = wide[last][0]
    assert isinstance(axis, np.ndarray)
    before = int(np.prod([n for _, n in wide[:last]]))
    after = int(np.prod([n for _, n in wide[last + 1 :]]))
    return np.tile(np.repeat(axis, after), before)


def _divided(followed: Followed, axis: Axis, new: Sequence[int]) -> Axes:
    if not isinstance(axis, np.ndarray):
        return [axis if n > 1 else ANY for n in new]
    grid = axis.reshape(new)
    varying = [k for k in range(len(new)) if new[k] > 1 and (grid != grid.take([0], axis=k)).any()]
    found: Axes = [FIXED if n > 1 else ANY for n in new]
    if not varying:
        last = max((k for k, n in enumerate(new) if n > 1), default=len(new) - 1)
        if grid.size and grid.flat[0] != 0:  # one channel at all places
            followed.pin(axis, "a reshape of a single channel")
        found[last] = FIXED if new and new[last] > 1 else ANY
        return found
    if len(varying) == 1:
        found[varying[0]] = np.moveaxis(grid, varying[0], 0).reshape(new[varying[0]], -1)[:, 0].copy()
        return found
    followed.reshaped.add(followed.here)
    choice = followed.choices.reshapes.get(followed.here, 0)
    if choice >= min(2, len(varying)):
        followed.pin(axis, "a reshape to numbers written in code")
        return found
    chosen = varying[-1 - choice]
    rows = np.moveaxis(grid, chosen, -1).reshape(-1, new[chosen])
    for row in rows[1:]:
        followed.labels.unite(rows[0], row)
    found[chosen] = rows[0].copy()
    return found


@rule("as_strided", "as_strided_", "resize_")
def strided(followed: Followed, call: Call) -> list[Axes] | None:
    """Another order in memory for as many axes; anything else is unknown."""
    axes = followed.axes(call.args[0])
    return [axes] if len(axes) == call.out[0].dim() else None


@rule("t", "numpy_T")
def turned(followed: Followed, call: Call) -> list[Axes]:
    return [followed.axes(call.args[0])[::-1]]


@rule("permute", "permute_copy")
def permuted(followed: Followed, call: Call) -> list[Axes]:
    axes = followed.axes(call.args[0])
    return [[axes[d] for d in call.args[1]]]


@rule("transpose", "transpose_")
def transposed(followed: Followed, call: Call) -> list[Axes]:
    axes = followed.axes(call.args[0])
    a, b = call.args[1], call.args[2]
    axes[a], axes[b] = axes[b], axes[a]
    return [axes]


@rule("expand", "expand_copy")
def expanded(followed: Followed, call: Call) -> list[Axes]:
    axes, out = followed.axes(call.args[0]), call.out[0]
    shape = (1,) * (out.dim() - len(axes)) + tuple(call.args[0].shape)
    axes = [*[ANY] * (out.dim() - len(axes)), *axes]
    for axis, n, m in zip(axes, shape, out.shape, strict=True):
        if n != m:
            followed.pin(axis, "a broadcast of a single channel")
    return [[axis if n == m else ANY for axis, n, m in zip(axes, shape, out.shape, strict=True)]]


@rule("repeat")
def repeated(followed: Followed, call: Call) -> list[Axes]:
    axes, out = followed.axes(call.args[0]), call.out[0]
    shape = (1,) * (out.dim() - len(axes)) + tuple(call.args[0].shape)
    axes = [*[ANY] * (out.dim() - len(axes)), *axes]
    found: Axes = []
    for axis, n, m in zip(axes, shape, out.shape, strict=True):
        if n == m:
            found.append(axis)
        elif isinstance(axis, np.ndarray) and n > 1:
            found.append(np.tile(axis, m // n))
        else:
            followed.pin(axis, "a broadcast of a single channel")
            found.append(ANY if n == 1 else FIXED)
    return [found]


@rule("cat", "concat", "concatenate")
def concatenated(followed: Followed, call: Call) -> list[Axes]:
    tensors = [t for t in call.args[0] if t.numel() or t.dim() > 1]
    d = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % tensors[0].dim()
    every = [followed.axes(t) for t in tensors]
    found: Axes = []
    for k in range(tensors[0].dim()):
        column = [axes[k] for axes in every]
        if k != d:
            found.append(_joined(followed, column, "a concatenation"))
        elif any(isinstance(axis, np.ndarray) for axis in column):
            found.append(np.concatenate([_array(a, t.shape[k]) for a, t in zip(column, tensors, strict=True)]))
        else:
            found.append(FIXED)
    return [found]


@rule("stack")
def stacked(followed: Followed, call: Call) -> list[Axes]:
    tensors = call.args[0]
    d = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % (tensors[0].dim() + 1)
    every = [followed.axes(t) for t in tensors]
    found = [_joined(followed, [axes[k] for axes in every], "a stack") for k in range(tensors[0].dim())]
    return [[*found[:d], FIXED, *found[d:]]]


def _array(axis: Axis, size: int) -> np.ndarray:
    return axis if isinstance(axis, np.ndarray) else np.zeros(size, dtype=np.int64)


def _joined(followed: Followed, column: Sequence[Axis], why: str) -> Axis:
    axis = column[0]
    for other in column[1:]:
        axis = followed.join(axis, other, why)
    return axis


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes", "tensor_split")
def split(followed: Followed, call: Call) -> list[Axes]:
    """Equal parts hold the same channels; of unequal ones only those behind the last border can go."""
    x = call.args[0]
    d = (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)) % x.dim()
    axes = followed.axes(x)
    axis, sizes = axes[d], [o.shape[d] for o in call.out]
    if isinstance(axis, np.ndarray) and len(sizes) > 1:
        if len(set(sizes)) == 1 and followed.choices.reshapes.get(followed.here, 0) == 0:
            followed.reshaped.add(followed.here)
            followed.couple(axis, len(sizes))
        else:
            followed.pin(axis, f"a split of channels into {', '.join(map(str, sizes))}")
    found, start = [], 0
    for size in sizes:
        part = axis[start : start + size] if isinstance(axis, np.ndarray) else axis
        found.append([*axes[:d], part, *axes[d + 1 :]])
        start += size
    return found


@rule("slice", "narrow")
def sliced(followed: Followed, call: Call) -> list[Axes] | None:
    x = call.args[0]
    d = call.get("dim", 0) % x.dim()
    if call.name.endswith("narrow"):
        start, end, step = call.args[2], call.args[2] + call.args[3], 1
    else:
        start, end, step = call.get("start") or 0, call.get("end"), call.get("step", 1)
    n = x.shape[d]
    start = max(0, start + n if start < 0 else start)
    end = n if end is None or end > ENDLESS else min(n, end + n if end < 0 else end)
    axes = followed.axes(x)
    axis = axes[d]
    if isinstance(axis, np.ndarray) and (start, end, step) != (0, n, 1):
        size = end - start if step == 1 else step
        equal = size > 0 and not n % size and (not start % size if step == 1 else start < step and end == n)
        first = followed.choices.reshapes.get(followed.here, 0) == 0
        if equal and first:
            followed.reshaped.add(followed.here)
            if step == 1:
                followed.couple(axis, n // size)
            else:
                followed.couple(axis.reshape(-1, step).T.ravel(), step)
        elif step == 1 and first:  # what lies behind the numbers in the code may go
            followed.reshaped.add(followed.here)
            followed.pin(axis[: end if end < n else start], f"a slice {start}:{end} of {n} channels")
        else:
            followed.pin(axis, f"a slice {start}:{end}:{step} of {n} channels")
    axes[d] = axis[start:end:step] if isinstance(axis, np.ndarray) else axis
    return [axes]


@rule("select", "unbind")
def selected(followed: Followed, call: Call) -> list[Axes]:
    d = call.get("dim", 0) % call.args[0].dim()
    axes = followed.axes(call.args[0])
    followed.pin(axes[d], "a single channel taken by its number")
    return [[*axes[:d], *axes[d + 1 :]] for _ in call.out]


@rule("constant_pad_nd")
def padded(followed: Followed, call: Call) -> list[Axes]:
    axes = followed.axes(call.args[0])
    pads: Sequence[int] = call.args[1]
    for k in range(len(pads) // 2):
        d, before, after = len(axes) - 1 - k, pads[2 * k], pads[2 * k + 1]
        axis = axes[d]
        if not before and not after:
            continue
        if isinstance(axis, np.ndarray) and before >= 0 and after >= 0:
            zeros = [np.zeros(n, dtype=np.int64) for n in (before, after)]
            axes[d] = np.concatenate([zeros[0], axis, zeros[1]])
        else:
            followed.pin(axis, "a pad that takes channels away")
            axes[d] = FIXED
    return [axes]


@rule("flip")
def flipped(followed: Followed, call: Call) -> list[Axes]:
    axes = followed.axes(call.args[0])
    for d in call.args[1]:
        axis = axes[d]
        axes[d] = axis[::-1].copy() if isinstance(axis, np.ndarray) else axis
    return [axes]


@rule("roll")
def rolled(followed: Followed, call: Call) -> list[Axes]:
    axes = followed.axes(call.args[0])
    dims = call.args[2] if len(call.args) > 2 else ()
    for d in dims if dims else range(len(axes)):
        followed.pin(axes[d], "a roll of channels")
        axes[d] = FIXED if isinstance(axes[d], np.ndarray) else axes[d]
    return [axes]


@rule("pixel_shuffle")
def pixels_shuffled(followed: Followed, call: Call) -> list[Axes]:
    axes, r = followed.axes(call.args[0]), call.args[1] ** 2
    axis = axes[-3]
    if isinstance(axis, np.ndarray):
        axes[-3] = followed.couple(axis.reshape(-1, r).T.ravel(), r)
    return [axes]


@rule("pixel_unshuffle")
def pixels_unshuffled(followed: Followed, call: Call) -> list[Axes]:
    axes, r = followed.axes(call.args[0]), call.args[1] ** 2
    axis = axes[-3]
    axes[-3] = np.repeat(axis, r) if isinstance(axis, np.ndarray) else FIXED
    return [axes]


@rule("channel_shuffle", "native_channel_shuffle")
def shuffled(followed: Followed, call: Call) -> list[Axes]:
    axes, groups = followed.axes(call.args[0]), call.args[1]
    if isinstance(axes[1], np.ndarray):
        axes[1] = np.repeat(followed.couple(axes[1], groups), groups)
    return [axes]


@rule("im2col")
def unfolded(followed: Followed, call: Call) -> list[Axes]:
    axes, size = followed.axes(call.args[0]), int(np.prod(call.args[1]))
    axis = axes[-3]
    axes[-3:] = [np.repeat(axis, size) if isinstance(axis, np.ndarray) else FIXED, FIXED]
    return [axes]


@rule("col2im")
def folded(followed: Followed, call: Call) -> list[Axes]:
    axes, size = followed.axes(call.args[0]), int(np.prod(call.args[2]))
    axis = axes[-2]
    one: Axis = followed.couple(axis.reshape(-1, size).T.ravel(), size) if isinstance(axis, np.ndarray) else FIXED
    axes[-2:] = [one, FIXED, FIXED]
    return [axes]


@rule("index", "index_select", "gather", "_unsafe_index")
def indexed(followed: Followed, call: Call) -> list[Axes] | None:
    """Positions taken by number: the indexed axes stay, the others pass."""
    x, axes = call.args[0], followed.axes(call.args[0])
    for tensor in call.args[1] if isinstance(call.args[1], (list, tuple)) else call.args[2:3]:
        for axis in followed.axes(tensor) if tensor is not None else ():
            followed.pin(axis, "channels that are numbers of places")
    if call.name.endswith(("index_select", "gather")):
        d = call.args[1] % x.dim()
        followed.pin(axes[d], "channels taken by their numbers")
        axes[d] = FIXED
        return [axes]
    indices: list[Any] = list(call.args[1])
    places = [k for k, index in enumerate(indices) if index is not None]
    for k in places:
        followed.pin(axes[k], "channels taken by their numbers")
    if not places or any(indices[k].dtype.itemsize == 1 for k in places) or places[-1] - places[0] >= len(places):
        return None
    new = call.out[0].dim() - (x.dim() - len(places))
    return [[*axes[: places[0]], *[FIXED] * new, *axes[places[-1] + 1 :]]]


@rule("detach", "clone", "alias", "contiguous", "_to_copy", "lift_fresh", "dropout", "_softmax", "_log_softmax",
      "native_dropout", "softmax", "log_softmax", "cumsum", "_conj", "view_as_real_copy", "_safe_softmax",
      "native_alpha_dropout", "_fused_dropout", "lift")  # fmt: skip
def kept(followed: Followed, call: Call) -> list[Axes]:
    axes = followed.axes(call.args[0])
    if call.name.endswith("cumsum"):
        followed.pin(axes[call.args[1]], "a sum over the channels before")
    return [list(axes) for _ in call.out]
