"""How far the outputs of an exported network are from the network's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from raybench.models.box_output import BOX, BoxOutput

TOLERANCE = 1e-4  # relative to the largest output; other runtimes sum in another order
LEAST = 0.01  # scores are compared with no less: onnxruntime's sigmoid errs by 1e-7, whatever the score


def difference(expected: Sequence[Tensor], found: Sequence[Tensor], boxes: BoxOutput | None = None) -> float:
    """Largest difference between outputs, each relative to the largest number of its `expected` tensor.

    Args:
        expected, found: outputs of the same images, tensor by tensor, of equal shapes.
        boxes: how a detector's output is laid out. Places, scores and classes are then compared by their own largest
            number, since places in pixels would hide scores. In a ranking, two boxes with scores that rounding can't
            tell apart may stand in either order, and one of two such boxes at its end may be missing.
    """
    pairs = list(zip(expected, found, strict=True))
    if boxes is None:
        return _worst(float((e - f).abs().max() / e.abs().max()) for e, f in pairs)
    rows = [_as_rows(e, f, boxes) for e, f in pairs]
    if not boxes.ranked:
        return _worst(float((e - f).abs().max()) for e, f in rows)
    return _worst(_of_ranking(e, f) for images in rows for e, f in zip(*images, strict=True))


def _worst(differences: Iterable[float]) -> float:
    """The largest; NaN if one is NaN, which `max` would drop."""
    return float(torch.tensor(list(differences)).max())


def _as_rows(expected: Tensor, found: Tensor, boxes: BoxOutput) -> tuple[Tensor, Tensor]:
    """Both as (images, boxes, columns), divided by the largest place, score and class of `expected`."""
    expected, found = expected.movedim(boxes.axis, -1), found.movedim(boxes.axis, -1)
    kinds = [BOX, 1, expected.shape[-1] - BOX - 1] if boxes.ranked else [BOX, expected.shape[-1] - BOX]
    scales = [part.abs().max().clamp_min(LEAST).expand(part.shape[-1]) for part in expected.split(kinds, -1)]
    scale = torch.cat(scales)
    return expected / scale, found / scale


def _of_ranking(expected: Tensor, found: Tensor) -> float:
    """Largest difference of one image's (boxes, columns), in whatever order boxes of one score stand."""
    in_place = float((expected - found).abs().max())
    if in_place <= TOLERANCE:
        return in_place
    scores, others = expected[:, BOX], found[:, BOX]
    apart = torch.cdist(expected, found, p=float("inf"))
    apart[(scores[:, None] - others).abs() > TOLERANCE] = in_place  # none but a box that scores alike
    sure, sure_others = scores > scores.min() + TOLERANCE, others > others.min() + TOLERANCE
    nearest = torch.cat([apart[sure].min(1).values, apart[:, sure_others].min(0).values])
    # Ties change the order of boxes, never that of scores.
    return _worst([float((scores - others).abs().max()), float(nearest.max()) if len(nearest) else 0.0])
