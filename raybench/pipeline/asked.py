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
from raybench.pipeline.measure import ONE, median_ms
from raybench.pipeline.transferred import METERS, meter_of
from raybench.selection.problem import Meter
from raybench.selection.records import Cut
from raybench.sweep.trial import Trial, digest

T = TypeVar("T")
Cuts = dict[float, Cut]
Select = Callable[..., Cuts]  # (targets as base / pruned, meter=...) -> the cut of each
ROUNDS = 4  # of selecting, timing, and scaling the prediction to what was timed
OFF = 0.05  # a measured latency that is farther from the asked one has a reason in its row
OF_NETWORK = (
    "dataset", "dataset_params", "model", "model_params", "model_version", "model_source", "prune", "keep", "only",
)  # fmt: skip


class Asked(Protocol):
    """How the amounts of a pass become cuts."""

    def cuts(self, select: Select, trials: Sequence[Trial]) -> Cuts:
        """Asked amount -> cut."""


@dataclass(frozen=True)
class OfBase:
    """Amounts that are base / pruned of a cost; None: MACs."""

    meter: Callable[[Cost], Meter] | None = None

    def cuts(self, select: Select, trials: Sequence[Trial]) -> Cuts:
        """All cuts of one pass."""
        return select([trial.speedup for trial in trials], **({"meter": self.meter} if self.meter else {}))


OF_MACS = OfBase()


@dataclass(frozen=True)
class OfLatency:
    """Amounts in milliseconds. The table gives a cut; the cut is timed, and the prediction is scaled to that."""

    prediction: LatencyMeter
    device: str
    time: Callable[[Cut], float]  # milliseconds of a cut network, with the machine alone

    def cuts(self, select: Select, trials: Sequence[Trial]) -> Cuts:
        """The cut of each trial. NotSupported for a latency that the uncut network has already."""
        return {trial.speedup: self._nearest(select, trial.speedup) for trial in trials}

    def _nearest(self, select: Select, amount: float) -> Cut:
        """The cut whose network, timed, comes nearest to the asked latency."""
        now = self.prediction
        if now.meter.base <= amount:
            base = f"the uncut network takes {now.meter.base:.3g} ms on {self.device} already"
            raise NotSupported(f"latency_ms: found {amount:g}; {base}")
        tried: list[Cut] = []
        while len(tried) < ROUNDS and now.meter.base > amount:
            cut = _cut(select, now.meter, amount)
            tried.append(replace(cut, selected_ms=self.time(cut)))
            if cut.reason or _off(tried[-1], amount) <= OFF / 2:
                break
            predicted = float(now.of(np.array([len(units) for units in cut.kept.values()])))
            now = now.scaled((tried[-1].selected_ms or predicted) / predicted)
        return min(tried, key=lambda cut: _off(cut, amount))


def _cut(select: Select, meter: Meter, amount: float) -> Cut:
    ratio = meter.base / amount
    cut = select([ratio], meter=lambda cost: meter)[ratio]
    reason = cut.reason and f"{cut.reason} (as uncut / cut milliseconds)"
    return replace(cut, target=amount, reason=reason)


def _off(cut: Cut, amount: float) -> float:
    return abs((cut.selected_ms or 0.0) / amount - 1)


def asked_of(trial: Trial, model: nn.Module, image: Tensor, groups: Groups, context: StageContext) -> Asked:
    """What the targets of `trial`'s pass are of; for latencies the table is read, or measured with the machine alone.

    Raises:
        StageError: the machine could not be had alone, so that there is no table.
    """
    if trial.prunes_first and trial.target in METERS:
        return OfBase(meter_of(trial, model, image, groups))
    return ASKED[trial.target](trial, model, image, groups, context)


def _latency(trial: Trial, model: nn.Module, image: Tensor, groups: Groups, context: StageContext) -> OfLatency:
    key = digest("network", {name: getattr(trial, name) for name in OF_NETWORK})

    def time(cut: Cut) -> float:
        slim = copy.deepcopy(model)
        surgery.apply(slim, groups, cut.kept)
        return _alone(*context.machine.timed(lambda: median_ms(slim, image, ONE)))

    found = context.machine.timed(lambda: latency_meter(model, image, groups, context.storage, key))
    return OfLatency(_alone(*found), device_words(image.device), time)


def _alone(found: T | None, why: str | None) -> T:
    """What was timed with the machine alone; StageError where it could not be had."""
    if found is None:
        raise StageError("select", f"no latency could be measured: {why}; the same command tries again")
    return found


ASKED: dict[str, Callable[[Trial, nn.Module, Tensor, Groups, StageContext], Asked]] = {
    "macs": lambda *told: OF_MACS,
    "params": lambda *told: OfBase(Meter.params),
    "latency_ms": _latency,
}


def missed(trial: Trial, measured_ms: float | None, selected_ms: float | None, why_untimed: str | None) -> str | None:
    """Why a cell misses its latency, as its row says it: more than 5 % off, or not timed; None where it is met."""
    if trial.target != "latency_ms":
        return None
    if measured_ms is None:
        return f"latency: asked {trial.speedup:g} ms, not checked: {why_untimed or 'not timed'}"
    off = measured_ms / trial.speedup - 1
    if abs(off) <= OFF:
        return None
    before = "" if selected_ms is None else f"; {selected_ms:.3g} ms when it was selected"
    return f"latency: asked {trial.speedup:g} ms, measured {measured_ms:.3g} ms ({off:+.0%}){before}"
