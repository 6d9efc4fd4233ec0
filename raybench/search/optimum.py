"""Where a polynomial is largest at the target cost: every depth and image size, with the width that the cost leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from raybench.search.space import Space
from raybench.sweep.kinds import Place


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
) -> Optimum | None:
    """The largest prediction among all places that can come to the target.

    Depths and image sizes are few, and the cost fixes the width, so all are looked at with their exact cost: no closed
    form, no start value.

    Args:
        space: places and their costs.
        predict: (depth, width, resolution) of points -> values.
        knows: whether each of them lies among the samples, so that its prediction is worth something.
        target: what is asked, as the space's costs count: base / pruned, or milliseconds.

    Returns:
        None where no place that comes to the target lies among the samples.
    """
    most = space.cost_of(target)
    variables = {place: space.variables(place, min(most, space.uncut[place])) for place in space.reaching(target)}
    inside = knows(list(variables.values()))
    places = [place for place, known in zip(variables, inside, strict=True) if known]
    if not places:
        return None
    values = predict([variables[place] for place in places])
    best = int(np.argmax(values))
    return Optimum(places[best], variables[places[best]][1], float(values[best]))
