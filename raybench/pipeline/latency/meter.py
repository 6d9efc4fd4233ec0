"""Latency as a cost of the selection: the sum of the layers' tables, fitted to a few whole networks."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from raybench.groups import surgery
from raybench.groups.cost import Cost
from raybench.groups.records import Groups
from raybench.pipeline.latency.layers import TimedLayer, timed_layers
from raybench.pipeline.latency.table import FOLDER, LayerTimes, Time, device_words, layer_times, read_ms
from raybench.pipeline.measure import ONE, median_ms
from raybench.selection.problem import Meter
from raybench.storage.base import Storage
from raybench.storage.sealed import create_object
from raybench.sweep.digests import digest

WHOLE = (1.0, 0.75, 0.5, 0.25, 0.125)  # shares of every group's units at which the whole network is timed


@dataclass(frozen=True)
class LatencyMeter:
    """Predicted milliseconds of one image as a function of the kept counts.

    The layers' times are in tables. A layer alone has its weights in the cache, and what lies between layers
    (activations, additions, the calls themselves) is in no table. So the network is timed whole at a few widths, and
    fitted by a constant, the sum of the tables, the values that the layers put out, and the parameters: no factor is
    negative, so that a smaller network never seems slower.
    """

    cost: Cost
    layers: tuple[TimedLayer, ...]
    times: tuple[LayerTimes, ...]
    factors: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0)  # of the four parts

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Milliseconds at kept units per group: (..., groups) -> (...,)."""
        return np.maximum(self.parts(counts) @ np.array(self.factors), 1e-9)

    def parts(self, counts: np.ndarray) -> np.ndarray:
        """The four parts at kept units per group: (..., groups) -> (..., 4)."""
        widths = self.cost.widths.at(counts)
        tables, values = (np.zeros(widths.shape[:-1]) for _ in range(2))
        for layer, times in zip(self.layers, self.times, strict=True):
            tables += times.at(widths[..., layer.into], widths[..., layer.out])
            values += layer.values * widths[..., layer.out]
        return np.stack([np.ones_like(tables), tables, values, self.cost.params(counts)], axis=-1)

    @property
    def meter(self) -> Meter:
        """The cost as a selection takes it."""
        return Meter(float(self.of(self.cost.sizes)), self.of)

    def scaled(self, factor: float) -> LatencyMeter:
        """The same with every time multiplied."""
        return replace(self, factors=tuple(factor * one for one in self.factors))


def latency_meter(
    model: nn.Module, image: Tensor, groups: Groups, storage: Storage, key: str, time: Time | None = None
) -> LatencyMeter:
    """Predict the latency of `model` after any cut; what isn't in the storage is measured now, on an idle machine.

    Args:
        model: the unpruned network, which isn't changed.
        image: one image, (1, channels, height, width).
        groups: its prunable groups.
        storage: holds the tables.
        key: of the network with these groups, under which its whole times are kept.
        time: milliseconds of a forward pass of a module; None: they are measured.
    """
    model = copy.deepcopy(model).eval()
    cost = Cost.measure(model, image, groups)
    layers = tuple(timed_layers(model, image, cost.widths))
    times = tuple(layer_times(layer, image.device, storage, time) for layer in layers)
    plain = LatencyMeter(cost, layers, times)
    points = _cuts(groups)
    whole = _whole(model, image, groups, points, storage, key, time)
    return replace(plain, factors=_fitted(plain.parts(np.array(points)), np.array(whole)))


def _cuts(groups: Groups) -> list[np.ndarray]:
    return [
        np.array([max(group.least, math.ceil(share * group.size)) for group in groups], dtype=np.int64)
        for share in WHOLE
    ]


def _whole(
    model: nn.Module, image: Tensor, groups: Groups, points: list[np.ndarray], storage: Storage, key: str,
    time: Time | None,
) -> list[float]:  # fmt: skip
    """Milliseconds of the whole network at each of `points`."""
    shape = {"device": device_words(image.device), "layer": f"whole network {key}", "torch": torch.__version__}
    file = f"{FOLDER}/{digest('whole', shape)}.json"
    known = read_ms(storage, file)
    if known is not None:
        return [float(ms) for ms in known[0]]
    found = []
    for counts in points:
        slim = copy.deepcopy(model)
        surgery.apply(slim, groups, {g.name: np.arange(n) for g, n in zip(groups, counts, strict=True)})
        found.append((time or _time)(slim, image))
    create_object(storage, file, shape | {"ms": [found]})
    return found


def _time(module: nn.Module, given: Tensor) -> float:
    return median_ms(module, given, ONE)


def _fitted(parts: np.ndarray, whole: np.ndarray) -> tuple[float, ...]:
    """The factors, none negative, of which the relative errors to the `whole` times are smallest."""
    scale = np.maximum(np.abs(parts).max(axis=0), 1e-30)  # of the parts, so that none counts for its unit
    found, _ = nnls(parts / scale / whole[:, None], np.ones(len(whole)))
    return tuple(map(float, found / scale))
