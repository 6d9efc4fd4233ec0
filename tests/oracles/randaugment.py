"""RandAugment by torchvision's own functions, images with the same operation and sign together: 1,000 calls a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from raybench.datasets.transfer import sent

STEPS = 10  # the highest magnitude, as in timm

Operation = Callable[[Tensor, float], Tensor]  # (images in 0..1, level in -1..1) -> images


def _shear(images: Tensor, x: float, y: float) -> Tensor:
    angles = [float(torch.rad2deg(torch.atan(torch.tensor(value)))) for value in (x, y)]
    return TF.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=angles)


def _shift(images: Tensor, x: float, y: float) -> Tensor:
    pixels = [round(x * images.shape[-1]), round(y * images.shape[-2])]
    return TF.affine(images, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])


def _on_bytes(function: Callable[[Tensor], Tensor]) -> Operation:
    """An operation that is defined on 8-bit pixels."""

    def run(images: Tensor, level: float) -> Tensor:
        return function((images * 255).round().to(torch.uint8)).float() / 255

    return run


def _sharpen(images: Tensor, factor: float) -> Tensor:
    """PIL's sharpness: interpolate between the smoothed image (factor 0) and the image (1), extrapolate above.

    The smoothing filter is 3x3, 5 in the centre and 1 elsewhere, divided by 13; it is computed as a box filter (sums
    over rows, then columns) plus 4 times the centre. Border pixels are unchanged.
    """
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = images[..., 1:-1, 1:-1]
    sharp = images.clone()
    sharp[..., 1:-1, 1:-1] = torch.lerp(box.add_(inner, alpha=4).div_(13), inner, factor)
    return sharp


# The paper's 14 operations with the ranges of Cubuk et al. 2019, appendix; level is magnitude / 10 with a sign.
OPERATIONS: tuple[Operation, ...] = (
    lambda images, level: images,
    lambda images, level: _shear(images, 0.3 * level, 0.0),
    lambda images, level: _shear(images, 0.0, 0.3 * level),
    lambda images, level: _shift(images, 0.45 * level, 0.0),
    lambda images, level: _shift(images, 0.0, 0.45 * level),
    lambda images, level: TF.rotate(images, 30.0 * level),
    lambda images, level: TF.adjust_brightness(images, 1 + 0.9 * level),
    lambda images, level: TF.adjust_saturation(images, 1 + 0.9 * level),
    lambda images, level: TF.adjust_contrast(images, 1 + 0.9 * level),
    lambda images, level: _sharpen(images, 1 + 0.9 * level),
    lambda images, level: _on_bytes(lambda b: TF.posterize(b, 8 - round(4 * abs(level))))(images, level),
    lambda images, level: TF.solarize(images, 1 - abs(level)),
    lambda images, level: TF.autocontrast(images),
    _on_bytes(TF.equalize),
)


def with_operations(images: Tensor, magnitude: int, draws: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The images after the operations of `draws`; images with the same operation and sign are processed together."""
    level = min(magnitude, STEPS) / STEPS
    kinds = torch.stack([2 * chosen + negative for chosen, negative in draws])
    orders = sent(kinds.argsort(dim=1, stable=True), images.device)  # of a round's images, those of a kind together
    for kind, order in zip(kinds, orders, strict=True):
        images = images.clone()
        sizes = kind.bincount(minlength=2 * len(OPERATIONS)).tolist()
        for place, members in enumerate(order.split(sizes)):
            number, negative = divmod(place, 2)
            if number and len(members):  # the first operation is the identity
                changed = OPERATIONS[number](images[members], -level if negative else level)
                images[members] = changed.clamp_(0, 1)
    return images
