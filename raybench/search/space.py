"""Points of a search: depth, image size and asked amount, and the width that a cost leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from raybench.sweep.kinds import WHOLE, Place
from raybench.sweep.target import TargetKind

NONE = 1.01  # speed-up that is asked where no channel shall go: the least that leaves the network as it is
NEAR = (0.4, 1.4)  # samples cost base / the target's powers of these
TRIED = 4096  # draws for samples
SLACK = 1.005  # a cost may be so much above the target's, as speed-ups are met
POWER: dict[TargetKind, int] = {"macs": 2, "params": 2, "latency": 1, "latency_ms": 1}  # of a width, that costs grow by


@dataclass(frozen=True)
class Point:
    """One cell of each seed: what is asked."""

    depth: float
    size: int | None
    speedup: float  # base / pruned, or milliseconds, of what the search's target is of


@dataclass(frozen=True)
class Space:
    """What can be chosen, and what it costs.

    Attributes:
        whole: cost of the base network: MACs, parameters or milliseconds.
        uncut: (depth, image size) -> cost with all channels.
        own: side of the dataset's images.
        width: whether channels go, too.
        kind: what the cost is.
        macs: (depth, image size) -> MACs with all channels.
    """

    whole: float
    uncut: Mapping[Place, float]
    own: int
    width: bool
    kind: TargetKind = "macs"
    macs: Mapping[Place, int] | None = None  # None: they are `uncut`

    def side(self, size: int | None) -> int:
        """The image size as a number."""
        return self.own if size is None else size

    def width_of(self, place: Place, cost: float) -> float:
        """The mean share of channels that stays: the root of the share of MACs or parameters, the share of time."""
        return float(min(1.0, (cost / self.uncut[place]) ** (1 / POWER[self.kind])))

    def shown_width(self, place: Place, macs: float) -> float:
        """The mean share of channels that stays, as MACs tell, whatever the target is of."""
        return min(1.0, math.sqrt(macs / (self.macs or self.uncut)[place]))

    def variables(self, place: Place, cost: float) -> tuple[float, float, float]:
        """(depth, width, resolution) as shares of the base network's, of a network with this cost."""
        return place[0], self.width_of(place, cost), self.side(place[1]) / self.own

    def cost_of(self, amount: float) -> float:
        """The cost that an asked amount allows."""
        return amount if self.kind == "latency_ms" else self.whole / amount

    def amount_of(self, cost: float) -> float:
        """What is asked of a cell that shall have this cost, with three digits: less than the base network has."""
        times = max(NONE, float(f"{self.whole / cost:.3g}"))
        return float(f"{self.whole / times:.3g}") if self.kind == "latency_ms" else times

    def point(self, place: Place, width: float) -> Point:
        """The cell to ask for, so that a share of its channels stays."""
        cost = self.uncut[place] * width ** POWER[self.kind] if width < 1 else self.whole
        return Point(*place, self.amount_of(cost))

    def at(self, place: Place, target: float) -> Point:
        """The cell that comes to the target by its channels; without width, the place as it is."""
        return Point(*place, target) if self.width else self.point(place, 1.0)

    def reaching(self, target: float) -> list[Place]:
        """The places that can come to the target, by all that is known before channels go."""
        return [place for place, uncut in self.uncut.items() if self.width or uncut <= self.cost_of(target) * SLACK]


def samples(space: Space, target: float, count: int, seed: int) -> list[Point]:
    """Up to `count` different points spread evenly over the space, of costs around the target's.

    The first one is the whole network at the target, by its channels alone, where these may go.
    """
    found = dict.fromkeys([space.at((WHOLE, None), target)] if space.width else [])
    for point in _drawn(space, space.whole / space.cost_of(target), seed):
        if len(found) >= count:
            break
        found[point] = None
    return list(found)


def _drawn(space: Space, times: float, seed: int) -> Iterator[Point]:
    """Points of a Halton sequence over places and widths, those of costs far from base / `times` left out."""
    places = list(space.uncut)
    least, most = (times**power for power in NEAR)
    depths, sizes = sorted({p[0] for p in places}), sorted({p[1] for p in places}, key=space.side)
    shift, power = np.random.default_rng(seed).random(3), POWER[space.kind]
    for number in range(1, TRIED):
        deep, wide, sized = ((_reversed(number, base) + shift[i]) % 1 for i, base in enumerate((2, 3, 5)))
        place = depths[math.floor(deep * len(depths))], sizes[math.floor(sized * len(sizes))]
        if place not in space.uncut:
            continue
        width = 1 - wide * (1 - times ** (-1 / power)) if space.width else 1.0
        if not space.width or least <= space.whole / (space.uncut[place] * width**power) <= most:
            yield space.point(place, width)


def _reversed(number: int, base: int) -> float:
    """The digits of `number` in `base`, mirrored at the point: a term of Halton's sequence."""
    share, found = 1.0, 0.0
    while number:
        number, digit = divmod(number, base)
        share /= base
        found += digit * share
    return found
