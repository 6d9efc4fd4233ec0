"""One search: its space is counted, samples run as ordinary cells, the polynomial is fitted, its best point runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raybench import registry
from raybench.errors import UserError, counted
from raybench.execution.one_trial import in_this_process
from raybench.execution.searchers import check_optuna, optuna_search
from raybench.execution.worker import Assignment
from raybench.pipeline.dimensions import uncut_macs
from raybench.plan.plan import why_not
from raybench.search.cells import Cells, Sample
from raybench.search.fit import Polynomial, fit
from raybench.search.optimum import optimum
from raybench.search.space import Point, Space, samples
from raybench.sweep.image_sizes import own_size
from raybench.sweep.kinds import DIMENSIONS, WHOLE, Place
from raybench.sweep.trial import Trial

MET = 0.02  # a sample may fall short of the target by so much: few channels make coarse steps
MISSED = 0.0  # the value that Optuna gets for a choice that doesn't reach the target
SIZES = 13  # image sizes that are tried, at most
STEPS = {"detection": 32, "large": 8}  # of image sizes; 1 below LARGE
LARGE = 96


@dataclass(frozen=True)
class Asked:
    """What a search is asked for."""

    target: float
    dimensions: tuple[str, ...]
    samples: int | None = None  # None: half more than the polynomial has coefficients
    sampler: str = "polynomial"
    seed: int = 0
    depths: tuple[float, ...] = ()  # to choose from; none: every number of blocks
    sizes: tuple[int, ...] = ()  # to choose from; none: sizes down to the one that meets the target alone


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        space: what could be chosen.
        samples: what was measured, the widths-only cell among them.
        failed: points whose cells didn't end well, with why.
        width_only: the whole network at the target, by channels alone; None where that isn't possible.
        winner: the search's choice, measured; None where its cell didn't end well.
        polynomial: the fit; None with another sampler.
        predicted: what it says of the winner.
        refused: image sizes that the network doesn't take, with why.
    """

    space: Space
    samples: tuple[Sample, ...]
    failed: tuple[tuple[Point, str], ...]
    width_only: Sample | None
    winner: Sample | None
    polynomial: Polynomial | None = None
    predicted: float | None = None
    refused: tuple[str, ...] = ()

    def best(self, target: float) -> Sample | None:
        """The best sample that meets the target, the whole network's among them."""
        met = [one for one in self.samples if one.speedup >= target * (1 - MET)]
        return max(met, key=lambda one: one.value, default=None)


def search(cells: Cells, asked: Asked, say: Callable[[str], None], device: str | None = None) -> Found:
    """Run a search.

    Raises:
        UserError: a dimension can't be changed, there are too few samples, or nothing comes to the target.
    """
    if asked.sampler == "optuna":
        check_optuna()
    count = asked.samples or default_samples(len(asked.dimensions))
    _check(cells.trials[0], asked, count)
    whole = Point(WHOLE, None, asked.target)
    first = cells.measured([whole])  # its base is what costs are counted on
    space, refused = _space(cells, asked, say, device)
    width_only = first[0].called("width only") if first else None
    if asked.sampler == "optuna":
        measured, failed = _by_optuna(cells, space, asked, count)
        best = Found(space, tuple(measured), tuple(failed), width_only, None).best(asked.target)
        return Found(space, tuple(measured), tuple(failed), width_only, best and best.called("winner"), refused=refused)
    points = samples(space, asked.target, count, asked.seed)
    measured = cells.measured(points)
    ended = {one.point for one in measured}
    failed = [(point, cells.why_not(point)) for point in points if point not in ended]
    at = [_used(space.variables((one.point.depth, one.point.size), one.macs), asked) for one in measured]
    polynomial = fit(at, [one.value for one in measured])
    best_place = optimum(
        space,
        lambda places: polynomial([_used(place, asked) for place in places]),
        lambda places: polynomial.knows([_used(place, asked) for place in places]),
        asked.target,
    )
    winner = space.at(best_place.place, asked.target)
    ran = cells.measured([winner])
    failed += [] if ran else [(winner, cells.why_not(winner))]
    return Found(
        space, tuple(measured), tuple(failed), width_only, ran[0].called("winner") if ran else None, polynomial,
        best_place.predicted, refused,
    )  # fmt: skip


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
    changed: dict[str, dict[str, Any]] = {"depth": {"depth": 0.5}, "width": {}, "resolution": {"image_size": 1}}
    for name in asked.dimensions:
        if reason := why_not(trial.model_copy(update=changed[name])):
            raise UserError(f"--dimensions {name}: {reason}")


def _used(variables: Sequence[float], asked: Asked) -> tuple[float, ...]:
    """Those of (depth, width, resolution) that the search changes."""
    return tuple(value for name, value in zip(DIMENSIONS, variables, strict=True) if name in asked.dimensions)


def _space(cells: Cells, asked: Asked, say: Callable[[str], None], device: str | None) -> tuple[Space, tuple[str, ...]]:
    """What can be chosen, with exact costs, and why some image sizes can't be."""
    trial, sweep = cells.trials[0], cells.sweep
    sizes = _sizes(trial, asked) if "resolution" in asked.dimensions else [None]
    depths = (asked.depths or None) if "depth" in asked.dimensions else (WHOLE,)
    resources = sweep.resources
    assignment = Assignment(
        cells.storage, dict(sweep.data_roots), cpus=resources.cpus, gpus=float(resources.gpus), device=device
    )
    found = in_this_process(
        trial, assignment, lambda context: uncut_macs(trial, sizes, depths, 1 / asked.target, context), say
    )
    whole = found.macs[WHOLE, None]
    return Space(whole, found.macs, found.own, "width" in asked.dimensions), found.refused


def _sizes(trial: Trial, asked: Asked) -> list[int | None]:
    """The image sizes to choose from, the own one first, as None."""
    own = own_size(registry.dataset.entry(trial.dataset), trial.dataset_params)
    if not isinstance(own, int):
        raise UserError(f"--dimensions resolution: the image size of {trial.dataset} isn't known")
    if asked.sizes:
        return [None, *(size for size in asked.sizes if size != own)]
    step = STEPS["detection"] if trial.task == "detection" else STEPS["large"] if own >= LARGE else 1
    least = math.ceil(own / math.sqrt(asked.target) / step) * step
    smaller = list(range(own - step - own % step * (step > 1), least - 1, -step))
    every = math.ceil(len(smaller) / (SIZES - 1)) or 1
    return [None, *smaller[::every]]


def _by_optuna(cells: Cells, space: Space, asked: Asked, count: int) -> tuple[list[Sample], list[tuple[Point, str]]]:
    """What Optuna tries: depths and image sizes, each at the target."""
    depths = sorted({place[0] for place in space.uncut})
    sizes = sorted({place[1] for place in space.uncut}, key=space.side)
    measured: dict[Point, Sample] = {}
    failed: dict[Point, str] = {}

    def measure(chosen: Mapping[str, int]) -> float | None:
        place: Place = depths[chosen["depth"]], sizes[chosen["size"]]
        if place not in space.uncut:
            return MISSED
        point = space.at(place, asked.target) if space.width else space.point(place, 1.0)
        if point not in measured and point not in failed:
            found = cells.measured([point])
            if found:
                measured[point] = found[0]
            else:
                failed[point] = cells.why_not(point)
        if point in failed:
            return None
        one = measured[point]
        return one.value if one.speedup >= asked.target * (1 - MET) else MISSED

    optuna_search({"depth": len(depths), "size": len(sizes)}, count, asked.seed, measure)
    return list(measured.values()), list(failed.items())
