"""Points of a search: depth, image size and asked speed-up, and the width that a cost leaves. The numbers are exact."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from raybench.sweep.kinds import Place

NONE = 1.01  # speed-up that is asked where no channel shall go: the least that leaves the network as it is
NEAR = (0.4, 1.4)  # samples have speed-ups between the target's powers of these
TRIED = 4096  # draws for samples


@dataclass(frozen=True)
class Point:
    """One cell of each seed: what is asked."""

    depth: float
    size: int | None
    speedup: float


@dataclass(frozen=True)
class Space:
    """What can be chosen, and what it costs.

    Attributes:
        whole: MACs of the base network.
        uncut: (depth, image size) -> MACs with all channels.
        own: side of the dataset's images.
        width: whether channels go, too.
    """

    whole: int
    uncut: Mapping[Place, int]
    own: int
    width: bool

    def side(self, size: int | None) -> int:
        """The image size as a number."""
        return self.own if size is None else size

    def width_of(self, place: Place, macs: float) -> float:
        """The mean share of channels that stays, as MACs tell: their square root, at most 1."""
        return min(1.0, math.sqrt(macs / self.uncut[place]))

    def variables(self, place: Place, macs: float) -> tuple[float, float, float]:
        """(depth, width, resolution) as shares of the base network's, of a network with these MACs."""
        return place[0], self.width_of(place, macs), self.side(place[1]) / self.own

    def point(self, place: Place, width: float) -> Point:
        """The cell to ask for: its speed-up counts from the base network, with three digits."""
        asked = self.whole / (self.uncut[place] * width**2) if width < 1 else NONE
        return Point(*place, max(NONE, float(f"{asked:.3g}")))

    def at(self, place: Place, target: float) -> Point:
        """The cell that comes to the target by its channels."""
        return Point(*place, target)


def samples(space: Space, target: float, count: int, seed: int) -> list[Point]:
    """Up to `count` different points spread evenly over the space, of costs around the target.

    The first one is the whole network at the target, by its channels alone, where these may go.
    """
    found = dict.fromkeys([space.at((1.0, None), target)] if space.width else [])
    for point in _drawn(space, target, seed):
        if len(found) >= count:
            break
        found[point] = None
    return list(found)


def _drawn(space: Space, target: float, seed: int) -> Iterator[Point]:
    """Points of a Halton sequence over places and widths, those of far costs left out."""
    places = list(space.uncut)
    least, most = (target**power for power in NEAR)
    depths, sizes = sorted({p[0] for p in places}), sorted({p[1] for p in places}, key=space.side)
    shift = np.random.default_rng(seed).random(3)
    for number in range(1, TRIED):
        deep, wide, sized = ((_reversed(number, base) + shift[i]) % 1 for i, base in enumerate((2, 3, 5)))
        place = depths[int(deep * len(depths))], sizes[int(sized * len(sizes))]
        if place not in space.uncut:
            continue
        width = 1 - wide * (1 - target**-0.5) if space.width else 1.0
        if not space.width or least <= space.whole / (space.uncut[place] * width**2) <= most:
            yield space.point(place, width)


def _reversed(number: int, base: int) -> float:
    """The digits of `number` in `base`, mirrored at the point: a term of Halton's sequence."""
    share, found = 1.0, 0.0
    while number:
        number, digit = divmod(number, base)
        share /= base
        found += digit * share
    return found
