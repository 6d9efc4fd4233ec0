"""RandAugment (Cubuk et al. 2020): two random operations for each image of a batch, at one magnitude.

The images of a batch are put into the order of what is done to them, so that each of the kernels below runs once for
all images that need it, whatever their operation and its sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from raybench.datasets.transfer import sent
from raybench.errors import UserError

OPERATIONS_EACH = 2  # for each image: N of the paper's ImageNet setting, timm's default
STEPS = 10  # the highest magnitude, as in timm

# The paper's 14 operations with the ranges of Cubuk et al. 2019, appendix, in the order of their numbers: for each the
# groups of its images, with a positive and with a negative sign.
OPERATIONS: tuple[tuple[str, str], ...] = (
    ("same", "same"),
    *(("moved", "moved"),) * 5,  # shear along x, along y; shift along x, along y; rotation
    ("brightness+", "brightness-"),
    ("saturation+", "saturation-"),
    ("contrast+", "contrast-"),
    ("sharpness+", "sharpness-"),
    ("posterize", "posterize"),
    ("solarize", "solarize"),
    ("autocontrast", "autocontrast"),
    ("equalize", "equalize"),
)
# as they lie in a batch: what shares a kernel is contiguous
GROUPS = (
    "same", "gray", "moved", "brightness+", "saturation+", "contrast+", "contrast-", "saturation-", "brightness-",
    "sharpness+", "sharpness-", "posterize", "equalize", "solarize", "autocontrast",
)  # fmt: skip
MOVES = range(1, 6)  # operations of the group "moved"
PLACES = np.array([[GROUPS.index(group) for group in signed] for signed in OPERATIONS])


def operation_draws(count: int, draw: torch.Generator) -> tuple[tuple[Tensor, Tensor], ...]:
    """(Number of the operation (b,) int64, whether its sign is negative (b,) bool) for each round, on the CPU."""
    return tuple(
        (torch.randint(0, len(OPERATIONS), (count,), generator=draw), torch.rand(count, generator=draw) < 0.5)
        for _ in range(OPERATIONS_EACH)
    )


def with_operations(images: Tensor, magnitude: int, draws: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The images (b, c, h, w) in 0..1 after the operations of `draws`; a new tensor.

    Raises:
        UserError: the images have neither 1 nor 3 channels.
    """
    _, channels, height, width = images.shape
    if channels not in (1, 3):
        raise UserError(f"randaugment: found images of {channels} channels, expected 1 or 3; leave randaugment out")
    level = min(magnitude, STEPS) / STEPS
    sources = _sources(level, height, width, images.device)
    present = np.arange(len(images))  # which image lies where
    sizes, rows = [], []
    for chosen, negative in draws:
        number, sign = chosen.numpy(), negative.numpy().astype(np.int64)
        place = PLACES[number, sign]
        if channels == 1:  # there is nothing to saturate
            place[number == 7] = GROUPS.index("gray")
        order = place.argsort(kind="stable")
        rows += [present.argsort()[order], (2 * number + sign)[order] - 2 * MOVES[0]]
        sizes.append(np.bincount(place, minlength=len(GROUPS)).tolist())
        present = order
    *rounds, back = sent(torch.from_numpy(np.stack([*rows, present.argsort()])), images.device).unbind()
    spare = None  # memory of the round before the last: large new tensors cost as much as copying them
    for index, size in enumerate(sizes):
        now = _taken(images, rounds[2 * index], spare)
        images, spare = now, images if index else None  # the first are not ours to write to
        _operate(_Parts(images, size), level, sources, rounds[2 * index + 1])
    return _taken(images, back, spare)


def _taken(images: Tensor, order: Tensor, into: Tensor | None) -> Tensor:
    """The images in another order, in the memory of `into` if there is one."""
    return images.index_select(0, order) if into is None else torch.index_select(images, 0, order, out=into)


class _Parts:
    """The images of a round, in the order of `GROUPS`; all parts are views."""

    def __init__(self, images: Tensor, sizes: Sequence[int]) -> None:
        self._images, self._sizes = images, sizes
        self._single = images.split(list(sizes))

    def __getitem__(self, group: str) -> Tensor:
        return self._single[GROUPS.index(group)]

    def place(self, first: str, last: str) -> tuple[int, int]:
        """(Number of the first image, number of images) of some neighbouring groups."""
        start, end = GROUPS.index(first), GROUPS.index(last) + 1
        return sum(self._sizes[:start]), sum(self._sizes[start:end])

    def span(self, first: str, last: str) -> Tensor:
        """The images of some neighbouring groups."""
        return self._images.narrow(0, *self.place(first, last))


def _operate(parts: _Parts, level: float, sources: Tensor, kinds: Tensor) -> None:
    """One operation for each image, in place; `kinds` are the rows of `sources` for those that are moved."""
    if len(moved := parts["moved"]):
        grids = sources.index_select(0, kinds.narrow(0, *parts.place("moved", "moved")))
        moved.copy_(F.grid_sample(moved, grids, mode="nearest", padding_mode="zeros", align_corners=False))
    _blend(parts, level)
    if len(images := parts.span("sharpness+", "sharpness-")):
        _sharpen(images, (len(parts["sharpness+"]), len(parts["sharpness-"])), level)
    _on_bytes(parts, level)
    if len(images := parts["solarize"]):
        images.copy_(torch.where(images >= 1 - level, 1 - images, images))
    if len(images := parts["autocontrast"]):
        _stretch(images)
    parts.span("gray", "autocontrast").clamp_(0, 1)


@lru_cache(maxsize=2)  # of one image size and magnitude there is one in a stage; a few MB at 224 pixels
def _sources(level: float, height: int, width: int, device: torch.device) -> Tensor:
    """Where each pixel of a moved image comes from: (10, h, w, 2), x and y as `grid_sample` has them.

    The rows are the moves with a positive and a negative sign, each by torchvision's nearest pixel: it moves an image
    of the pixels' own numbers.
    """
    numbers = torch.arange(1.0, height * width + 1).view(1, 1, height, width)  # 0 is what comes from outside
    moved = torch.cat([move(numbers, signed) for move in _MOVES for signed in (level, -level)])[:, 0].long()
    row, column = (moved - 1).div(width, rounding_mode="floor"), (moved - 1).remainder(width)
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], 3)
    return sent(grid.masked_fill_((moved == 0)[..., None], 3.0), device)  # 3 is outside of -1..1


def _shear(images: Tensor, x: float, y: float) -> Tensor:
    angles = [float(torch.rad2deg(torch.atan(torch.tensor(value)))) for value in (x, y)]
    return TF.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=angles)


def _shift(images: Tensor, x: float, y: float) -> Tensor:
    pixels = [round(x * images.shape[-1]), round(y * images.shape[-2])]
    return TF.affine(images, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])


_MOVES: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda images, level: _shear(images, 0.3 * level, 0.0),
    lambda images, level: _shear(images, 0.0, 0.3 * level),
    lambda images, level: _shift(images, 0.45 * level, 0.0),
    lambda images, level: _shift(images, 0.0, 0.45 * level),
    lambda images, level: TF.rotate(images, 30.0 * level),
)


def _factor(sign: str, level: float) -> float:
    """Of brightness, saturation, contrast and sharpness: 1 leaves an image as it is."""
    return 1 + 0.9 * (level if sign == "+" else -level)


def _blend(parts: _Parts, level: float) -> None:
    """factor * image + (1 - factor) * other: black for brightness, gray for saturation, the mean gray for contrast."""
    others: list[tuple[str, str, Tensor]] = []  # (group, its sign, other)
    if len(images := parts.span("saturation+", "saturation-")):
        groups = GROUPS[GROUPS.index("saturation+") : GROUPS.index("saturation-") + 1]
        for group, gray in zip(groups, _gray(images).split([len(parts[group]) for group in groups]), strict=True):
            if len(gray):
                # each sign's images by themselves: how threads share a sum depends on how many sums there are
                other = gray.mean((1, 2, 3), keepdim=True) if "contrast" in group else gray
                others.append((group, group[-1], other))
    for sign, first, last in (("+", "brightness+", "contrast+"), ("-", "contrast-", "brightness-")):
        if len(images := parts.span(first, last)):
            images.mul_(_factor(sign, level))
    for group, sign, other in others:
        parts[group].add_(other, alpha=1 - _factor(sign, level))


def _gray(images: Tensor) -> Tensor:
    """(b, 1, h, w) brightness, with torchvision's weights."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(1)


def _sharpen(images: Tensor, counts: Sequence[int], level: float) -> None:
    """PIL's sharpness, in place: from the smoothed image (factor 0) to the image (1), and on above; `counts` by sign.

    The smoothing filter is 3x3, 5 in the centre and 1 elsewhere, divided by 13; it is computed as a box filter (sums
    over rows, then columns) plus 4 times the centre. Border pixels are unchanged.
    """
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = images[..., 1:-1, 1:-1]
    smooth = box.add_(inner, alpha=4).div_(13)
    for sign, one, other in zip("+-", smooth.split(list(counts)), inner.split(list(counts)), strict=True):
        if len(one):
            other.copy_(torch.lerp(one, other, _factor(sign, level)))


def _on_bytes(parts: _Parts, level: float) -> None:
    """Posterize and equalize, which are defined on 8-bit pixels."""
    if not len(images := parts.span("posterize", "equalize")):
        return
    pixels = (images * 255).round_().to(torch.uint8)
    dropped = round(4 * level)  # bits
    posterized, others = pixels.split([len(parts["posterize"]), len(parts["equalize"])])
    if dropped and len(posterized):
        posterized.bitwise_and_(256 - 2**dropped)
    if len(others):
        others.copy_(_equalized(others))
    images.copy_(pixels).div_(255)


def _equalized(pixels: Tensor) -> Tensor:
    """PIL's equalize of bytes (b, c, h, w), each channel by itself: int64 of the same shape.

    With `step` = (pixels below the brightest value) // 255, a value becomes (pixels below it + step // 2) // step; an
    image with step 0 stays.
    """
    flat = pixels.flatten(2).long()
    counts = torch.zeros((*flat.shape[:2], 256), dtype=torch.int64, device=flat.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    below = counts.cumsum(2).sub_(counts)
    step = below.gather(2, flat.amax(2, keepdim=True)).div_(255, rounding_mode="floor")
    table = below.add_(step.div(2, rounding_mode="floor")).div_(step.clamp(min=1), rounding_mode="floor")
    same = torch.arange(256, device=flat.device)
    return torch.where(step > 0, table.clamp_(max=255), same).gather(2, flat).view(pixels.shape)


def _stretch(images: Tensor) -> None:
    """Each channel from its darkest and brightest value to 0..1, in place; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = high == low
    range_ = high.sub_(low).masked_fill_(flat, 1.0)
    images.sub_(low.masked_fill_(flat, 0.0)).div_(range_)
