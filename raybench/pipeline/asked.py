"""What the targets of one selection pass are of: MACs, parameters, or milliseconds of one image on this device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from raybench.errors import NotSupported, StageError
from raybench.groups import surgery
from raybench.groups.cost import Cost
from raybench.groups.records import Groups
from raybench.pipeline.context import StageContext
from raybench.pipeline.latency.meter import LatencyMeter, latency_meter
from raybench.pipeline.latency.table import device_words
from raybench.pipeline.measure import Pace, medians_ms
from raybench.pipeline.transferred import METERS, meter_of
from raybench.selection.joint import Removable
from raybench.selection.meters import BlockMeter, Counted
from raybench.selection.problem import Meter
from raybench.selection.records import Cut
from raybench.selection.shallow import without
from raybench.sweep.digests import digest
from raybench.sweep.target import TIMED
from raybench.sweep.trial import Trial

T = TypeVar("T")
Cuts = dict[float, Cut]
Select = Callable[..., Cuts]  # (targets as base / pruned, meter=...) -> the cut of each
Left = Callable[[Cut, LatencyMeter], LatencyMeter]
LONG = Pace(5, 60, block=5)  # how often a cut is timed
ROUNDS = 4  # of selecting, timing, and scaling the prediction to what was timed
OFF = 0.05  # a measured latency that is farther from the asked one has a reason in its row
OF_NETWORK = (
    "dataset", "dataset_params", "model", "model_params", "model_version", "model_source", "prune", "keep", "only",
)  # fmt: skip


@dataclass(frozen=True)
class TimedCuts:
    """Cuts that one pass found, and the seconds of one of its steps, or why they are missing."""

    cuts: Cuts  # asked amount -> cut
    step_time_s: float | None
    timing_reason: str | None


class Asked(Protocol):
    """How the amounts of a pass become cuts."""

    def cuts(self, select: Select, trials: Sequence[Trial]) -> Cuts:
        """Asked amount -> cut."""


@dataclass(frozen=True)
class OfBase:
    """Amounts that are base / pruned of a cost; None: MACs."""

    meter: BlockMeter | Callable[[Cost], Meter] | None = None

    def cuts(self, select: Select, trials: Sequence[Trial]) -> Cuts:
        """All cuts of one pass."""
        return select([trial.speedup for trial in trials], **({"meter": self.meter} if self.meter else {}))


OF_MACS = OfBase()


def _whole(cut: Cut, meter: LatencyMeter) -> LatencyMeter:
    """The meter itself, for cuts that keep all blocks."""
    return meter


@dataclass(frozen=True)
class OfLatency:
    """Amounts of time. The table gives a cut; the cut is timed, and the prediction is scaled to that.

    Amounts are milliseconds; with `relative` they are base / pruned milliseconds, both timed in turns, so that other
    load on the machine changes little.
    """

    prediction: LatencyMeter
    device: str
    time: Callable[[Cut], tuple[float, float]]  # milliseconds of the uncut and of a cut network, with the machine alone
    relative: bool = False
    left: Left = _whole  # where blocks may go, what the prediction is without those that a cut lacks

    def cuts(self, select: Select, trials: Sequence[Trial]) -> Cuts:
        """The cut of each trial. NotSupported for a latency that the uncut network has already."""
        return {trial.speedup: self._nearest(select, trial.speedup) for trial in trials}

    def _nearest(self, select: Select, amount: float) -> Cut:
        """The cut whose network, timed, comes nearest to the asked latency."""
        now, base = self.prediction, self.prediction.meter.base
        goal = base / amount if self.relative else amount  # milliseconds, of an uncut network that takes `base`
        if base <= goal:
            already = f"the uncut network takes {base:.3g} ms on {self.device} already"
            raise NotSupported(f"latency_ms: found {amount:g}; {already} (`latency: 2` asks for half of its time)")
        tried: list[tuple[float, Cut]] = []
        while len(tried) < ROUNDS and now.meter.base > goal:
            cut = _cut(select, now, goal)
            counts = np.array([len(units) for units in cut.kept.values()])
            whole, ms = self.time(cut)
            timed = ms * base / whole if self.relative else ms
            predicted = float(self.left(cut, self.prediction).of(counts))
            found = replace(cut, target=amount, selected_ms=ms, predicted_ms=predicted)
            tried.append((abs(timed / goal - 1), found))
            if cut.reason or tried[-1][0] <= OFF / 2:
                break
            now = now.scaled(timed / float(self.left(cut, now).of(counts)))
        return min(tried, key=lambda one: one[0])[1]


def _cut(select: Select, now: LatencyMeter, goal: float) -> Cut:
    ratio = now.meter.base / goal
    cut = select([ratio], meter=now)[ratio]
    return replace(cut, reason=cut.reason and f"{cut.reason} (as uncut / cut milliseconds)")


def asked_of(
    trial: Trial,
    model: nn.Module,
    image: Tensor,
    groups: Groups,
    context: StageContext,
    removable: Removable | None = None,
) -> Asked:
    """What the targets of `trial`'s pass are of; for latencies the table is read, or measured with the machine alone.

    `removable`: blocks that the trial's strategy may remove; None for other strategies.

    Raises:
        StageError: the machine could not be had alone, so that there is no table.
    """
    if trial.prunes_first and trial.target in METERS and not removable:
        return OfBase(meter_of(trial, model, image, groups))
    return ASKED[trial.target](trial, model, image, groups, context, removable)


def _latency(
    trial: Trial,
    model: nn.Module,
    image: Tensor,
    groups: Groups,
    context: StageContext,
    removable: Removable | None = None,
) -> OfLatency:
    seen: dict[str, str | int | list[str]] = {}
    if trial.shallower:  # which blocks it lacks depends on weights and images
        seen["pass"] = trial.pass_key
    if trial.image_size is not None:
        seen["image_size"] = trial.image_size
    if removable:
        seen["blocks"] = list(removable.names)
    whole = copy.deepcopy(model).eval()
    key = digest("network", {name: getattr(trial, name) for name in OF_NETWORK} | seen)

    def of_cut(cut: Cut) -> tuple[nn.Module, Groups]:
        slim = without(whole, cut.blocks)
        return slim, removable.regroup(slim) if removable and cut.blocks else groups

    def left(cut: Cut, meter: LatencyMeter) -> LatencyMeter:
        slim, own = of_cut(cut)
        return meter.standing(slim, own, image)

    def time(cut: Cut) -> tuple[float, float]:
        slim, own = of_cut(cut)
        surgery.apply(slim, own, cut.kept)
        base, cut_ms = timing_of(*context.machine.timed(lambda: medians_ms([whole, slim], image, LONG)))
        return base, cut_ms

    found = context.machine.timed(
        lambda: latency_meter(model, image, groups, context.storage, key, removable=removable)
    )
    relative = trial.target == "latency"
    return OfLatency(timing_of(*found), device_words(image.device), time, relative, left if removable else _whole)


def timing_of(found: T | None, why: str | None) -> T:
    """What was timed with the machine alone; StageError where it could not be had."""
    if found is None:
        raise StageError("select", f"no latency could be measured: {why}; the same command tries again")
    return found


ASKED: dict[str, Callable[[Trial, nn.Module, Tensor, Groups, StageContext, Removable | None], Asked]] = {
    "macs": lambda *passed: OF_MACS,
    "params": lambda *passed: OfBase(Counted(Meter.params)),
    "latency_ms": _latency,
    "latency": _latency,
}


def missed(
    trial: Trial, base_ms: float | None, measured_ms: float | None, selected_ms: float | None, why_untimed: str | None
) -> str | None:
    """Why a cell misses its latency, as its row says it: more than 5 % off, or not timed; None where it is met."""
    if trial.target not in TIMED:
        return None
    relative = trial.target == "latency"
    asked = f"latency: asked {trial.speedup:g}{'x' if relative else ' ms'}"
    if measured_ms is None or base_ms is None:
        return f"{asked}, not checked: {why_untimed or 'not timed'}"
    off = (base_ms / measured_ms if relative else measured_ms) / trial.speedup - 1
    if abs(off) <= OFF:
        return None
    found = f"{measured_ms:.3g} ms ({off:+.0%})"
    if relative:
        found = f"{base_ms / measured_ms:.3g}x ({off:+.0%}): {measured_ms:.3g} of {base_ms:.3g} ms"
    before = "" if selected_ms is None else f"; {selected_ms:.3g} ms when it was selected"
    return f"{asked}, measured {found}{before}"
