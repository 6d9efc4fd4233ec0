"""Latency as a cost of the selection: the sum of the layers' tables, fitted to a few whole networks."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from raybench.groups import surgery
from raybench.groups.blocks import Removed
from raybench.groups.cost import Cost
from raybench.groups.records import Groups
from raybench.pipeline.latency.layers import TimedLayer, timed_layers
from raybench.pipeline.latency.table import FOLDER, LayerTimes, Stacked, Time, device_words, layer_times, read_ms
from raybench.pipeline.measure import ONE, median_ms
from raybench.selection.joint import Removable
from raybench.selection.meters import Spent
from raybench.selection.problem import Meter
from raybench.selection.shallow import without
from raybench.storage.base import Storage
from raybench.storage.sealed import create_object
from raybench.sweep.digests import digest

SHALLOW = (1.0, 0.5)  # the same of networks without blocks
WHOLE = (1.0, 0.75, 0.5, 0.25, 0.125)  # shares of every group's units at which the whole network is timed


@dataclass(frozen=True)
class LatencyMeter:
    """Predicted milliseconds of one image as a function of the kept counts.

    The layers' times are in tables. A layer alone has its weights in the cache, and what lies between layers
    (activations, additions, the calls themselves) is in no table. So the network is timed whole at a few widths, and
    fitted by a constant, the sum of the tables, the values that the layers put out, the parameters, and the blocks that
    stand, where some may go: no factor is negative, so that a smaller network never seems slower.
    """

    cost: Cost
    layers: tuple[TimedLayer, ...]
    times: tuple[LayerTimes, ...]
    factors: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0, 0.0)  # of the five parts
    blocks: tuple[str, ...] = ()  # that may go, and stand

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Milliseconds at kept units per group: (..., groups) -> (...,)."""
        return np.maximum(self.parts(counts) @ np.array(self.factors), 1e-9)

    def parts(self, counts: np.ndarray) -> np.ndarray:
        """The five parts at kept units per group: (..., groups) -> (..., 5)."""
        widths = self.cost.widths.at(counts)
        tables, values = self._stacked.total(widths), widths @ self._values
        blocks = np.full_like(tables, len(self.blocks))
        return np.stack([np.ones_like(tables), tables, values, self.cost.params(counts), blocks], axis=-1)

    @cached_property
    def _stacked(self) -> Stacked:
        return Stacked.of(self.layers, self.times)

    @cached_property
    def _values(self) -> np.ndarray:
        """(columns,) values that layers put out for each channel of a column."""
        found = np.zeros(len(self.cost.widths.at(self.cost.sizes)))
        np.add.at(found, [layer.out for layer in self.layers], [layer.values for layer in self.layers])
        return found

    @property
    def meter(self) -> Meter:
        """The cost as a selection takes it."""
        return Meter(float(self.of(self.cost.sizes)), self.of)

    def __call__(self, cost: Cost) -> Meter:
        """The cost of the whole network as a selection asks for it."""
        return self.meter

    def within(self, cost: Cost, block: str, params: int) -> Spent | None:
        """What the module `block` takes of it, as a function of the same counts; None where its counts aren't known."""
        own = cost.within(block, params)
        if own is None:
            return None
        inside = [name == block or name.startswith(f"{block}.") for name in (layer.name for layer in self.layers)]
        layers, times = tuple(itertools.compress(self.layers, inside)), tuple(itertools.compress(self.times, inside))
        return LatencyMeter(own, layers, times, (0.0, *self.factors[1:]), (block,)).of

    def left(self, model: nn.Module, groups: Groups, example: Tensor) -> Meter:
        """What `model`, the network without some blocks, takes: see `standing`."""
        return self.standing(model, groups, example).meter

    def standing(self, model: nn.Module, groups: Groups, example: Tensor) -> LatencyMeter:
        """The same tables and factors for `model`, the network without some blocks, as a function of its `groups`."""
        cost = Cost.measure(model, example, groups)
        layers = tuple(timed_layers(model, example, cost.widths))
        known = {(layer.name, layer.kind): times for layer, times in zip(self.layers, self.times, strict=True)}
        times = tuple(known[layer.name, layer.kind] for layer in layers)
        blocks = tuple(name for name in self.blocks if not isinstance(model.get_submodule(name), Removed))
        return LatencyMeter(cost, layers, times, self.factors, blocks)

    def scaled(self, factor: float) -> LatencyMeter:
        """The same with every time multiplied."""
        return replace(self, factors=tuple(factor * one for one in self.factors))


def latency_meter(
    model: nn.Module,
    image: Tensor,
    groups: Groups,
    storage: Storage,
    key: str,
    time: Time | None = None,
    removable: Removable | None = None,
) -> LatencyMeter:
    """Predict the latency of `model` after any cut; what isn't in the storage is measured now, on an idle machine.

    Args:
        model: the unpruned network, which isn't changed.
        image: one image, (1, channels, height, width).
        groups: its prunable groups.
        storage: holds the tables.
        key: of the network with these groups and removable blocks, under which its whole times are kept.
        time: milliseconds of a forward pass of a module; None: they are measured.
        removable: blocks that may go whole; the network is then timed without some of them, too.
    """
    model = copy.deepcopy(model).eval()
    cost = Cost.measure(model, image, groups)
    layers = tuple(timed_layers(model, image, cost.widths))
    times = tuple(layer_times(layer, image.device, storage, time) for layer in layers)
    plain = LatencyMeter(cost, layers, times, blocks=removable.names if removable else ())
    points = [_Point(model, groups, plain, counts) for counts in _cuts(groups, WHOLE)]
    points += list(_without_blocks(model, image, plain, removable)) if removable else []
    whole = _whole(image, points, storage, key, time)
    return replace(plain, factors=_fitted(np.stack([one.meter.parts(one.counts) for one in points]), np.array(whole)))


@dataclass(frozen=True)
class _Point:
    """A network, with all of its blocks or without some, at one number of units of each group."""

    model: nn.Module
    groups: Groups
    meter: LatencyMeter
    counts: np.ndarray

    def cut(self) -> nn.Module:
        slim = copy.deepcopy(self.model)
        kept = {group.name: np.arange(count) for group, count in zip(self.groups, self.counts, strict=True)}
        surgery.apply(slim, self.groups, kept)
        return slim


def _cuts(groups: Groups, shares: Sequence[float]) -> list[np.ndarray]:
    return [
        np.array([max(group.least, math.ceil(share * group.size)) for group in groups], dtype=np.int64)
        for share in shares
    ]


def _without_blocks(model: nn.Module, image: Tensor, plain: LatencyMeter, removable: Removable) -> Iterator[_Point]:
    """The network without all of its removable blocks, and without every other one, at a few widths."""
    for gone in dict.fromkeys((removable.names, removable.names[::2])):
        slim = without(model, gone)
        groups = removable.regroup(slim)
        meter = plain.standing(slim, groups, image)
        yield from (_Point(slim, groups, meter, counts) for counts in _cuts(groups, SHALLOW))


def _whole(image: Tensor, points: Sequence[_Point], storage: Storage, key: str, time: Time | None) -> list[float]:
    """Milliseconds of the networks at each of `points`."""
    shape = {"device": device_words(image.device), "layer": f"whole network {key}", "torch": torch.__version__}
    file = f"{FOLDER}/{digest('whole', shape)}.json"
    known = read_ms(storage, file)
    if known is not None:
        return [float(ms) for ms in known[0]]
    found = [(time or _time)(one.cut(), image) for one in points]
    create_object(storage, file, shape | {"ms": [found]})
    return found


def _time(module: nn.Module, given: Tensor) -> float:
    return median_ms(module, given, ONE)


def _fitted(parts: np.ndarray, whole: np.ndarray) -> tuple[float, ...]:
    """The factors, none negative, of which the relative errors to the `whole` times are smallest."""
    scale = np.maximum(np.abs(parts).max(axis=0), 1e-30)  # of the parts, so that none counts for its unit
    found, _ = nnls(parts / scale / whole[:, None], np.ones(len(whole)))
    return tuple(map(float, found / scale))
