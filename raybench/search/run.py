"""One search: its space is counted, samples run as ordinary cells, the polynomial is fitted, its best point runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raybench.errors import UserError, counted
from raybench.execution.searchers import check_optuna
from raybench.plan.plan import why_not
from raybench.search.asked import Asked
from raybench.search.baseline import by_optuna
from raybench.search.cells import Cells, Sample
from raybench.search.counting import Counting
from raybench.search.fit import Polynomial, fit
from raybench.search.optimum import optimum
from raybench.search.space import Point, Space, samples
from raybench.sweep.kinds import DIMENSIONS, WHOLE
from raybench.sweep.trial import Trial


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        space: what could be chosen.
        samples: what was measured, the widths-only cell among them.
        failed: points whose cells didn't end well, with why.
        width_only: the whole network at the target, by channels alone; None where that isn't possible.
        winner: the search's choice, measured; None where its cell didn't end well.
        polynomial: the fit; None with another sampler, and where there was nothing to choose.
        predicted: what it says of the winner; None where no network at the target lies among the samples, so that the
            winner is the best of them.
        refused: image sizes that the network doesn't take, with why.
    """

    space: Space
    samples: tuple[Sample, ...] = ()
    failed: tuple[tuple[Point, str], ...] = ()
    width_only: Sample | None = None
    winner: Sample | None = None
    polynomial: Polynomial | None = None
    predicted: float | None = None
    refused: tuple[str, ...] = ()

    def choice(self, asked: Asked) -> Sample | None:
        """What to take home: the winner, or the best sample where that did better."""
        ended = [one for one in (self.winner, self.best(asked)) if one]
        return max(ended, key=lambda one: one.value, default=None)

    def best(self, asked: Asked) -> Sample | None:
        """The best sample that meets the target, the whole network's among them."""
        return max(filter(asked.met, self.samples), key=lambda one: one.value, default=None)


def search(cells: Cells, asked: Asked, say: Callable[[str], None], device: str | None = None) -> Found:
    """Run a search.

    Args:
        cells: runs and reads cells.
        asked: target, dimensions and budget.
        say: called with a line about each step.
        device: on which the space is counted, as torch spells it; None: the cells' kind.

    Raises:
        UserError: a dimension can't be changed, there are too few samples, or nothing comes to the target.
    """
    if asked.sampler == "optuna":
        check_optuna()
    count = asked.samples or default_samples(len(asked.dimensions))
    _check(cells.trials[0], asked, count)
    counting = Counting(cells, asked, say, device)
    say("search: checking that the target is in reach")
    counting.check_reach()
    say(f"search: the whole network at {asked.target} by its channels alone, and its base")
    first = cells.measured([Point(WHOLE, None, asked.target.value)])  # its base is what costs are counted on
    space, refused = counting.space()
    found = Found(space, width_only=first[0].called("width only") if first else None, refused=refused)
    if len(space.reaching(asked.target.value)) == 1:
        return _only_one(cells, asked, found, say)
    if asked.sampler == "optuna":
        measured, failed = by_optuna(cells, space, asked, count)
        found = replace(found, samples=tuple(measured), failed=tuple(failed))
        best = found.best(asked)
        return replace(found, winner=best and best.called("winner"))
    return _by_polynomial(cells, asked, found, count, say)


def _only_one(cells: Cells, asked: Asked, found: Found, say: Callable[[str], None]) -> Found:
    """The network that alone comes to the target: there is nothing to choose."""
    (place,) = found.space.reaching(asked.target.value)
    depth, side = f"depth {place[0]:g}", f"images of {found.space.side(place[1])} pixels"
    say(f"search: nothing to choose: one network of these dimensions comes to {asked.target}: {depth}, {side}")
    point = found.space.at(place, asked.target.value)
    ran = cells.measured([point])
    failed = () if ran else ((point, cells.why_not(point)),)
    return replace(found, samples=tuple(ran), failed=failed, winner=ran[0].called("winner") if ran else None)


def _by_polynomial(cells: Cells, asked: Asked, found: Found, count: int, say: Callable[[str], None]) -> Found:
    """Even samples, a fit of them, and its optimum at the target."""
    space = found.space
    points = samples(space, asked.target.value, count, asked.seed)
    say(f"search: {counted(len(points), 'sample')} of {counted(len(space.uncut), 'pair')} of depth and image size")
    measured = cells.measured(points)
    ended = {one.point for one in measured}
    failed = [(point, cells.why_not(point)) for point in points if point not in ended]
    costs = [one.share * space.whole for one in measured]
    places = [(one.point.depth, one.point.size) for one in measured]
    at = [_used(space.variables(*one), asked) for one in zip(places, costs, strict=True)]
    polynomial = fit(at, [one.value for one in measured])
    best = optimum(
        space,
        lambda places: polynomial([_used(place, asked) for place in places]),
        lambda places: polynomial.knows([_used(place, asked) for place in places]),
        asked.target.value,
    )
    found = replace(found, samples=tuple(measured), failed=tuple(failed), polynomial=polynomial)
    if best is None:
        nearest = found.best(asked)
        return replace(found, winner=nearest and nearest.called("winner"))
    winner = space.at(best.place, asked.target.value)
    say("search: the network that the polynomial finds best")
    ran = cells.measured([winner])
    failed += [] if ran else [(winner, cells.why_not(winner))]
    won = ran[0].called("winner") if ran else None
    return replace(found, failed=tuple(failed), winner=won, predicted=best.predicted)


def coefficients(dimensions: int) -> int:
    """How many coefficients a polynomial of degree 2 in so many variables has."""
    return math.comb(dimensions + 2, 2)


def default_samples(dimensions: int) -> int:
    """Half more samples than coefficients."""
    return math.ceil(1.5 * coefficients(dimensions))


def _check(trial: Trial, asked: Asked, count: int) -> None:
    """UserError where a dimension can't be changed for this method, or the samples are too few."""
    least = coefficients(len(asked.dimensions))
    if asked.sampler == "polynomial" and count < least:
        raise UserError(
            f"--samples: found {count}, expected at least {least}: so many coefficients has the polynomial of degree 2 "
            f"in {counted(len(asked.dimensions), 'dimension')}"
        )
    if reason := why_not(trial):
        raise UserError(f"{asked.option}: {asked.target} can't be had: {reason}")
    changed: dict[str, dict[str, Any]] = {"depth": {"depth": 0.5}, "width": {}, "resolution": {"image_size": 1}}
    for name in asked.dimensions:
        if reason := why_not(trial.model_copy(update=changed[name])):
            raise UserError(f"--dimensions {name}: {reason}")


def _used(variables: Sequence[float], asked: Asked) -> tuple[float, ...]:
    """Those of (depth, width, resolution) that the search changes."""
    return tuple(value for name, value in zip(DIMENSIONS, variables, strict=True) if name in asked.dimensions)
