"""Where a polynomial is largest at the target cost: every depth and image size, with the width that the cost leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from raybench.errors import UserError
from raybench.search.space import Space
from raybench.sweep.kinds import Place

SLACK = 1.005  # a cost may be so much above the target's, as speed-ups are met


@dataclass(frozen=True)
class Optimum:
    """The best place, the width there, and the predicted value."""

    place: Place
    width: float
    predicted: float


def optimum(
    space: Space,
    predict: Callable[[Sequence[Sequence[float]]], np.ndarray],
    knows: Callable[[Sequence[Sequence[float]]], np.ndarray],
    target: float,
) -> Optimum:
    """The largest prediction among all places that can come to the target.

    Depths and image sizes are few, and the cost fixes the width, so all are looked at with their exact cost: no closed
    form, no start value.

    Args:
        space: places and their costs.
        predict: (depth, width, resolution) of points -> values.
        knows: whether each of them lies among the samples, so that its prediction is worth something.
        target: base MACs / MACs.

    Raises:
        UserError: no place comes to the target, or none that lies among the samples.
    """
    most = space.whole / target
    found: dict[Place, float] = {}
    for place, uncut in space.uncut.items():
        width = space.width_of(place, min(most, uncut))
        if uncut <= most * SLACK or space.width:
            found[place] = width
    if not found:
        reached = space.whole / min(space.uncut.values())
        raise UserError(f"--target: found {target:g}, expected at most {reached:.3g}, which these dimensions reach")
    variables = {place: space.variables(place, min(most, space.uncut[place])) for place in found}
    inside = knows(list(variables.values()))
    places = [place for place, known in zip(variables, inside, strict=True) if known]
    if not places:
        raise UserError(
            f"--samples: none lies near a network of {target:g}x, and a fit says nothing beyond its samples"
        )
    values = predict([variables[place] for place in places])
    best = int(np.argmax(values))
    return Optimum(places[best], found[places[best]], float(values[best]))
