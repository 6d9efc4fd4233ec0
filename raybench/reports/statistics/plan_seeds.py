"""Seeds that a sweep needs for a wished resolution, from a stated spread or from that of finished cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from raybench.errors import UserError, counted
from raybench.reports.scores import SCORED
from raybench.reports.statistics.intervals import half_width
from raybench.reports.statistics.resolution import MOST, seeds_needed
from raybench.reports.statistics.samples import Cells, samples
from raybench.results.store import Store
from raybench.storage.open import open_existing
from raybench.sweep.target import ASKED

LARGEST = 100.0  # points: metrics are percentages
KEY = ("strategy", "protocol", "recipe", *ASKED)


@dataclass(frozen=True)
class SeedsNeeded:
    """How many seeds a resolution needs, and a sentence with that number. None: more than 10,000."""

    needed: int | None
    sentence: str


def seeds_for(resolution: float, spread: float | None, url: str) -> SeedsNeeded:
    """The fewest seeds whose t interval of a same-seed difference is at most ±`resolution` wide.

    Args:
        resolution: wished half-width of the 95 % interval, in points.
        spread: standard deviation of same-seed differences; None: that of the finished cells at `url`.
        url: storage of earlier results.

    Raises:
        UserError: a number is no possible one, or there are no results to take the spread from.
    """
    _check("--resolution", resolution)
    if spread is not None:
        _check("--spread", spread)
    found, source = (spread, "--spread") if spread is not None else _spread_of(url)
    needed = seeds_needed(found, resolution)
    basis = f"same-seed differences of two methods spread by {found:.2f} points ({source})"
    if needed is None:
        return SeedsNeeded(None, f"seeds: {basis}; more than {MOST:,} are needed for ±{resolution:g} points")
    width = half_width(found, needed)
    sentence = f"seeds: {basis}; {needed} give a 95 % interval of ±{width:.2f} points (target: ±{resolution:g})"
    return SeedsNeeded(needed, sentence)


def _check(option: str, value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= LARGEST):
        raise UserError(f"{option}: found {value:g}, expected more than 0 and at most {LARGEST:g} points")


def _spread_of(url: str) -> tuple[float, str]:
    """(standard deviation of same-seed differences, where it is from): of what is left after methods and seeds."""
    advice = "say it with --spread POINTS, or name a storage whose cells have two seeds with --timings DIR"
    groups: dict[tuple, Cells] = {}
    for row in _rows(url):
        if row["status"] == "ok":
            cells = groups.setdefault(tuple(row[name] for name in KEY), {})
            by_method = cells.setdefault((row["dataset"], row["model"]), {})
            by_method.setdefault(row["config_id"], {})[(row["seed"], row["base_seed"])] = row["metric_final"]
    squares, freedom, boards = 0.0, 0, 0
    for cells in groups.values():
        for key, by_method in cells.items():
            found = samples({key: by_method})
            values = found.blocks[0].values if found.blocks else np.zeros((0, 0))
            own = (values.shape[0] - 1) * (values.shape[1] - 1)
            if own > 0:
                left = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
                squares, freedom, boards = squares + float((left**2).sum()), freedom + own, boards + 1
    if not freedom:
        raise UserError(
            f"--resolution: no two methods have two seeds in common in {url}, so the spread isn't known; {advice}"
        )
    return max((2 * squares / freedom) ** 0.5, 1e-6), f"{counted(boards, 'ranking')} in {url}"


def _rows(url: str) -> list[dict[str, Any]]:
    """Every row at `url`; none where there is no storage."""
    try:
        storage = open_existing(url)
    except UserError:
        return []
    return list(Store(storage).table(SCORED).to_pylist())
