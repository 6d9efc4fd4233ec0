"""How labels of channels pass through products, convolutions, norms, sums, pooling and pointwise operations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from raybench.groups.following import Axes, Call, Followed, rule
from raybench.groups.labels import ANY, FIXED, Axis


@rule("pointwise", "copy_", "where", "masked_fill", "masked_fill_", "lerp", "addcmul", "addcdiv",
      "_prelu_kernel", "prelu", "fill_", "nan_to_num", "bernoulli_", "clamp", "normal_", "rsub",
      "hardswish", "hardsigmoid", "hardtanh", "relu6", "silu", "gelu", "mish", "leaky_relu", "elu", "celu", "selu",
      "softplus", "log_sigmoid_forward", "hardswish_", "hardtanh_", "leaky_relu_", "elu_", "hardsigmoid_", "silu_",
      "threshold", "softshrink", "hardshrink", "rrelu_with_noise")  # fmt: skip
def pointwise(followed: Followed, call: Call) -> Sequence[Axes] | None:
    """Equally long axes meet position by position; an axis of one position is broadcast."""
    tensors = [t for t in (*call.args, *call.kwargs.values()) if isinstance(t, Tensor)]
    tensors += [t for a in call.args if isinstance(a, (list, tuple)) for t in a if isinstance(t, Tensor)]
    if call.name.endswith("prelu") and tensors[1].dim() == 1:
        return None
    out = call.out[0]
    found: Axes = []
    every = [(t, followed.axes(t)) for t in tensors if t.dim()]
    for k in range(1, out.dim() + 1):
        here = [(t.shape[-k], axes[-k]) for t, axes in every if t.dim() >= k]
        wide: list[Axis] = [axis for n, axis in here if n == out.shape[-k]]
        for n, axis in here:
            if n != out.shape[-k]:
                followed.pin(axis, "a broadcast of a single channel")
        axis = wide[0] if wide else ANY
        for other in wide[1:]:
            axis = followed.join(axis, other, "channels meet what has a fixed width")
        found.insert(0, axis)
    if call.name.endswith("_"):  # a tensor that the code has made may be read through another view
        before = followed.axes(call.args[0])
        for axis, was, n in zip(found, before, call.args[0].shape, strict=True):
            if n > 1 and not isinstance(was, np.ndarray):
                followed.pin(axis, "channels are written into a new tensor")
    return [list(found) for _ in call.out]


@rule("glu")
def gated(followed: Followed, call: Call) -> list[Axes]:
    """The first half times the sigmoid of the second."""
    axes = followed.axes(call.args[0])
    d = call.args[1] if len(call.args) > 1 else -1
    axis = axes[d]
    if isinstance(axis, np.ndarray):
        axes[d] = followed.couple(axis, 2)
    return [axes]


@rule("mm", "bmm", "matmul", "mv", "dot")
def product(followed: Followed, call: Call) -> list[Axes] | None:
    left, right = call.args[:2]
    return _product(followed, left, right)


@rule("addmm", "baddbmm")
def added_product(followed: Followed, call: Call) -> list[Axes] | None:
    bias, left, right = call.args[:3]
    found = _product(followed, left, right)
    if found is None:
        return None
    for k, axis in enumerate(followed.axes(bias)[::-1], 1):
        if bias.shape[-k] == call.out[0].shape[-k] > 1:
            found[0][-k] = followed.join(found[0][-k], axis, "a bias of fixed width")
    return found


@rule("linear")
def linear(followed: Followed, call: Call) -> list[Axes]:
    x, weight = followed.axes(call.args[0]), followed.axes(call.args[1])
    followed.join(x[-1], weight[-1], "a linear layer reads what has a fixed width")
    bias = call.get("bias")
    if bias is not None:
        weight[0] = followed.join(weight[0], followed.axes(bias)[0], "a bias of fixed width")
    return [[*x[:-1], weight[0]]]


def _product(followed: Followed, left: Tensor, right: Tensor) -> list[Axes] | None:
    if left.dim() < 2 or right.dim() < 2 or left.dim() != right.dim():
        return None
    a, b = followed.axes(left), followed.axes(right)
    both = isinstance(a[-1], np.ndarray) and isinstance(b[-2], np.ndarray)
    if left.shape[-1] > 1 or both:
        followed.join(a[-1], b[-2], "a matrix product reads what has a fixed width")
    batch = [followed.join(x, y, "a batch of products") for x, y in zip(a[:-2], b[:-2], strict=True)]
    return [[*batch, a[-2], b[-1]]]


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution")
def convolution(followed: Followed, call: Call) -> list[Axes] | None:
    x, weight, bias = call.args[:3]
    turned, groups = call.get("transposed", False), call.get("groups", 1)
    axes = followed.axes(weight)
    if groups > 1 and not turned and weight.shape[1] == 1 and axes[1] is ANY:
        axes[1] = np.zeros(1, dtype=np.int64)  # of a depthwise convolution whose weight belongs to no layer
    return [_convolved(followed, followed.axes(x), axes, bias, turned, groups, x.dim())]


def _convolved(
    followed: Followed, x: Axes, weight: Axes, bias: Tensor | None, turned: bool, groups: int, dims: int
) -> Axes:
    out, into = (weight[1], weight[0]) if turned else (weight[0], weight[1])
    for axis in (*x[2:], *weight[2:]):
        followed.pin(axis, "a convolution along channels")
    if groups > 1:
        out = _grouped(followed, x, out, into, turned, groups)
    else:
        followed.join(x[1], into, "a convolution reads what has a fixed width")
    if bias is not None:
        out = followed.join(out, followed.axes(bias)[0], "a bias of fixed width")
    return [x[0], out, *[FIXED] * (dims - 2)]


def _grouped(followed: Followed, x: Axes, out: Axis, into: Axis, turned: bool, groups: int) -> Axis:
    """Output axis of a grouped convolution; one input channel a group: its outputs follow it."""
    if not (isinstance(out, np.ndarray) and isinstance(into, np.ndarray)):
        for axis in (x[1], out, into):
            followed.pin(axis, "a grouped convolution with a weight of its own")
        return FIXED
    if turned:
        return _grouped_turned(followed, x, out, into, groups)
    if len(into) == 1:
        if isinstance(x[1], np.ndarray):
            followed.labels.unite(np.repeat(x[1], len(out) // groups), out)
            return out
        followed.pin(out, "a depthwise convolution reads what has a fixed width")
        return FIXED
    followed.couple(out, groups)
    followed.join(x[1], np.tile(into, groups), "a convolution reads what has a fixed width")
    return out


def _grouped_turned(followed: Followed, x: Axes, own: np.ndarray, into: np.ndarray, groups: int) -> Axis:
    """Output axis of a transposed convolution in groups; `own`: the outputs of one group."""
    if len(into) != groups:
        for axis in (own, into, x[1]):
            followed.pin(axis, "a grouped transposed convolution")
        return FIXED
    if len(own) > 1:
        followed.pin(own, "a transposed depthwise convolution with several outputs for each channel")
    x[1] = followed.join(x[1], into, "a convolution reads what has a fixed width")
    return x[1] if len(own) == 1 else FIXED


@rule("torchvision::deform_conv2d")
def deformed(followed: Followed, call: Call) -> list[Axes]:
    x, weight, offset, mask, bias = call.args[:5]
    for side in (offset, mask):
        for axis in followed.axes(side)[1:2]:
            followed.pin(axis, "offsets of a deformable convolution")
    axes = followed.axes(x)
    if call.get("offset_groups") > 1:
        followed.pin(axes[1], "groups of offsets of a deformable convolution")
    return [_convolved(followed, axes, followed.axes(weight), bias, False, call.get("groups"), 4)]


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "cudnn_batch_norm",
      "batch_norm", "_batch_norm_no_update", "_native_batch_norm_legit_functional", "_batch_norm_with_update",
      "instance_norm")  # fmt: skip
def batch_normed(followed: Followed, call: Call) -> list[Axes]:
    axes = followed.axes(call.args[0])
    for tensor in call.args[1:5]:
        if isinstance(tensor, Tensor):
            axes[1] = followed.join(axes[1], followed.axes(tensor)[0], "a norm of fixed width")
    others: list[Axes] = [[axes[1]] if o.dim() == 1 and o.numel() else [*[FIXED] * o.dim()] for o in call.out[1:]]
    return [axes, *others]


@rule("native_layer_norm", "layer_norm", "rms_norm", "_fused_rms_norm")
def layer_normed(followed: Followed, call: Call) -> list[Axes]:
    axes, shape = followed.axes(call.args[0]), call.args[1]
    for axis in axes[-len(shape) :]:
        if len(shape) > 1:
            followed.pin(axis, "a norm over several axes")
    for tensor in call.args[2:4]:
        if isinstance(tensor, Tensor) and len(shape) == 1:
            axes[-1] = followed.join(axes[-1], followed.axes(tensor)[0], "a norm of fixed width")
    return [axes, *[[*axes[: -len(shape)], *[ANY] * len(shape)][: o.dim()] for o in call.out[1:]]]


@rule("native_group_norm", "group_norm")
def group_normed(followed: Followed, call: Call) -> list[Axes]:
    axes = followed.axes(call.args[0])
    groups = call.get("group", call.get("num_groups", 1))
    if isinstance(axes[1], np.ndarray):
        followed.couple(axes[1], groups)
    for name in ("weight", "bias"):
        tensor = call.get(name)
        if isinstance(tensor, Tensor):
            axes[1] = followed.join(axes[1], followed.axes(tensor)[0], "a norm of fixed width")
    others: list[Axes] = [[*[FIXED] * o.dim()] for o in call.out[1:]]
    return [axes, *others]


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "max", "min", "linalg_vector_norm", "norm",
      "prod", "logsumexp", "any", "all", "argmax", "argmin", "median", "count_nonzero", "aminmax")  # fmt: skip
def reduced(followed: Followed, call: Call) -> Sequence[Axes] | None:
    """Sums and maxima over axes: channels that are summed are gone."""
    x = call.args[0]
    if len(call.args) > 1 and isinstance(call.args[1], Tensor):
        return pointwise(followed, call)
    axes = followed.axes(x)
    dims = call.get("dim")
    if dims is None:
        chosen = set(range(x.dim()))
    else:
        chosen = {d % x.dim() for d in (dims if isinstance(dims, (list, tuple)) else [dims])} or set(range(x.dim()))
    found: list[Axes] = []
    for out in call.out:
        if out.dim() == x.dim():
            found.append([ANY if d in chosen else axis for d, axis in enumerate(axes)])
        else:
            found.append([axis for d, axis in enumerate(axes) if d not in chosen])
    return found


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "avg_pool1d",
      "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool2d", "max_pool2d",
      "adaptive_max_pool3d", "upsample_nearest2d", "upsample_nearest1d", "upsample_nearest3d", "upsample_bilinear2d",
      "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
      "_upsample_bicubic2d_aa", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
      "replication_pad2d", "replication_pad3d", "grid_sampler_2d", "_upsample_nearest_exact2d", "mkldnn_max_pool2d",
      "max_pool3d", "max_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "max_pool1d_with_indices",
      "fractional_max_pool2d", "max_unpool2d", "torchvision::roi_align", "lp_pool2d")  # fmt: skip
def pooled(followed: Followed, call: Call) -> list[Axes]:
    """Whatever works on each channel's map alone; pixels have no labels."""
    x, axes = call.args[0], followed.axes(call.args[0])
    name = call.name
    pixels = next((n for n in (1, 2, 3) if f"{n}d" in name), 2)
    for axis in axes[x.dim() - pixels :]:
        followed.pin(axis, f"{name.partition('::')[2]} over channels")
    for tensor in call.args[1:2]:  # a grid, boxes
        if isinstance(tensor, Tensor) and "unpool" not in name:
            for axis in followed.axes(tensor):
                followed.pin(axis, "channels that are places in an image")
    return [[*axes[: x.dim() - pixels], *[FIXED] * pixels] for _ in call.out]


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention",
      "scaled_dot_product_attention", "_scaled_dot_product_cudnn_attention",
      "_scaled_dot_product_fused_attention_overrideable")  # fmt: skip
def attended(followed: Followed, call: Call) -> list[Axes]:
    """Attention in one kernel. Without a scale of its own it divides by the root of a head's width, which stays."""
    q, k, v = (followed.axes(t) for t in call.args[:3])
    for tensor in (call.get("attn_mask"), call.get("attn_bias")):
        for axis in followed.axes(tensor) if isinstance(tensor, Tensor) else ():
            followed.pin(axis, "a bias of attention")
    width = followed.join(q[-1], k[-1], "queries meet keys of a fixed width")
    if call.get("scale") is None:
        followed.pin(width, "attention is scaled by the width of a head")
    batch: Axes = []
    for a, b, c in zip(q[:-2], k[:-2], v[:-2], strict=True):
        batch.append(followed.join(followed.join(a, b, "heads"), c, "heads"))
    others: list[Axes] = [[*[FIXED] * o.dim()] for o in call.out[1:]]
    return [[*batch, q[-2], v[-1]], *others]


@rule("embedding")
def embedded(followed: Followed, call: Call) -> list[Axes]:
    weight, index = call.args[:2]
    axes = followed.axes(weight)
    followed.pin(axes[0], "rows of an embedding")
    return [[*[FIXED] * index.dim(), axes[1]]]


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
      "new_full", "new_empty", "arange", "zeros", "ones", "full", "empty", "new_empty_strided", "_local_scalar_dense",
      "is_same_size", "item", "equal", "scalar_tensor", "bernoulli", "rand", "randn")  # fmt: skip
def created(followed: Followed, call: Call) -> list[Axes]:
    """Values that come from no channel: as wide as what they meet where all are equal."""
    return [followed.axes(out) for out in call.out]
