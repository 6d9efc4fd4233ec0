"""What a search is asked for, and how far a network is from it."""

from __future__ import annotations

from dataclasses import dataclass

from raybench.errors import UserError
from raybench.search.cells import Sample
from raybench.sweep.kinds import DIMENSIONS
from raybench.sweep.target import Amount, TargetKind

OPTIONS: dict[TargetKind, str] = {
    "macs": "--target", "params": "--target-params", "latency": "--target-latency", "latency_ms": "--target-latency",
}  # fmt: skip
NEAR: dict[TargetKind, float] = {"macs": 0.005, "params": 0.005, "latency": 0.05, "latency_ms": 0.05}  # as rows have it
MET: dict[TargetKind, float] = {"macs": 0.02, "params": 0.02, "latency": 0.05, "latency_ms": 0.05}
WHY = {"granularity": "a single channel is too large a step to come closer (granularity)"}  # reason -> its meaning


@dataclass(frozen=True)
class Asked:
    """What a search is asked for."""

    target: Amount
    dimensions: tuple[str, ...]
    samples: int | None = None  # None: half more than the polynomial has coefficients
    sampler: str = "polynomial"
    seed: int = 0
    depths: tuple[float, ...] = ()  # to choose from; none: every number of blocks
    sizes: tuple[int, ...] = ()  # to choose from; none: sizes down to the one that meets the target alone

    @property
    def option(self) -> str:
        """The option that sets the target."""
        return OPTIONS[self.target.kind]

    def met(self, one: Sample) -> bool:
        """Whether a sample comes to the target: few channels make coarse steps, and times scatter."""
        return self.short(one) <= MET[self.target.kind]

    def short(self, one: Sample) -> float:
        """By what share of the target a sample falls short of it; below 0 where it is past it."""
        asked, absolute = self.target.value, self.target.kind == "latency_ms"
        return one.got / asked - 1 if absolute else 1 - one.got / asked

    def missed(self, one: Sample) -> str | None:
        """How far a network is from what was asked, in one sentence; None where it is as near as rows come."""
        short, found = self.short(one), Amount(float(f"{one.got:.4g}"), self.target.kind)
        if abs(short) <= NEAR[self.target.kind]:
            return None
        way = "short of" if short > 0 else "past"
        why = one.reason and f": {WHY.get(one.reason, one.reason)}"
        return f"the winner comes to {found}, {100 * abs(short):.2g} % {way} the {self.target} asked for{why or ''}"


def dimensions_of(target: Amount, chosen: list[str] | None) -> tuple[str, ...]:
    """The dimensions that a search changes: those chosen, else all that change the cost.

    Raises:
        UserError: one is chosen that doesn't change the cost.
    """
    if target.kind == "params":
        if chosen and "resolution" in chosen:
            raise UserError(
                "--dimensions: found resolution beside --target-params, expected depth, width: the size of images "
                "doesn't change how many parameters a network has"
            )
        chosen = chosen or ["depth", "width"]
    return tuple(name for name in DIMENSIONS if name in (chosen or DIMENSIONS))
