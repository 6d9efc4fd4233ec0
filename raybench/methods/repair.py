"""The option `repair` of every criterion: after the cut, what was removed is made up for in closed form, untrained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from raybench import registry
from raybench.catalogue import OPTIONS, REPAIR
from raybench.methods.protocols import Importance, RefitProblem
from raybench.methods.refit import least_squares

POINTS = 10  # output locations an image, as cp and thinet sample


def criterion_named(name: str, params: Mapping[str, Any]) -> Importance:
    """A registered criterion with its parameters, among which may be the option `repair`.

    Args:
        name: of the criterion.
        params: its parameters, checked already.

    Returns:
        The criterion; with `repair`, one that refits.

    Example:
        >>> criterion_named("lamp", {"repair": "ridge"}).reconstructs
        True
    """
    entry = registry.importance.entry(name)
    own = {key: value for key, value in params.items() if key not in entry.options}
    criterion: Importance = registry.importance.load(name)(**own)
    return repaired(criterion) if entry.chosen(REPAIR, params) != OPTIONS[REPAIR][0] else criterion


def repaired(criterion: Importance) -> Importance:
    """A copy of `criterion` that scores as it does, and refits every layer that reads pruned channels.

    The layer's outputs Y are affine in the inputs X that are left, Y = X W + b: W is the ridge regression towards the
    old weights, b the intercept (Zhang and Yang, CORP, 2026: what was removed is an affine function of what is left,
    folded into the weights in closed form). A refit of the criterion's own is replaced.

    Args:
        criterion: any criterion.

    Returns:
        The copy, an object of a subclass.
    """
    kind = type(criterion)
    facts = {"reconstructs": True, "refits_bias": True, "points": POINTS, "refit": _refit}
    found = copy.copy(criterion)
    object.__setattr__(found, "__class__", type(kind.__name__, (kind,), facts))
    object.__setattr__(found, "reconstruct", True)
    return found


def _refit(self: Importance, problem: RefitProblem) -> Tensor:
    return least_squares(problem)
