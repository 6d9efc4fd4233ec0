"""The search's baseline: Optuna over depths and image sizes, each cell at the target."""

from __future__ import annotations

from collections.abc import Mapping

from raybench.execution.searchers import optuna_search
from raybench.search.asked import Asked
from raybench.search.cells import Cells, Sample
from raybench.search.space import Point, Space
from raybench.sweep.kinds import Place

MISSED = 0.0  # the value that Optuna gets for a choice that doesn't reach the target


def by_optuna(cells: Cells, space: Space, asked: Asked, count: int) -> tuple[list[Sample], list[tuple[Point, str]]]:
    """What Optuna tries: (samples, points whose cells didn't end well, with why)."""
    depths = sorted({place[0] for place in space.uncut})
    sizes = sorted({place[1] for place in space.uncut}, key=space.side)
    measured: dict[Point, Sample] = {}
    failed: dict[Point, str] = {}

    def measure(chosen: Mapping[str, int]) -> float | None:
        place: Place = depths[chosen["depth"]], sizes[chosen["size"]]
        if place not in space.uncut:
            return MISSED
        point = space.at(place, asked.target.value)
        if point not in measured and point not in failed:
            found = cells.measured([point])
            if found:
                measured[point] = found[0]
            else:
                failed[point] = cells.why_not(point)
        if point in failed:
            return None
        return measured[point].value if asked.met(measured[point]) else MISSED

    optuna_search({"depth": len(depths), "size": len(sizes)}, count, asked.seed, measure)
    return list(measured.values()), list(failed.items())
