"""The table of latencies: one file for each layer shape and device in the storage, interpolated between widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.errors import counted
from raybench.pipeline.latency.layers import TimedLayer
from raybench.pipeline.measure import Pace, median_ms
from raybench.provenance import cpu_name
from raybench.storage.base import Storage
from raybench.storage.json_text import is_number, is_text
from raybench.storage.sealed import create_object, read_sealed
from raybench.sweep.digests import digest

FOLDER = "latency"  # of the storage
PACE = Pace(3, 21, block=3, most_s=1.0)
Time = Callable[[nn.Module, Tensor], float]  # milliseconds of one forward pass


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of one layer at a grid of widths."""

    grid_in: tuple[int, ...]
    grid_out: tuple[int, ...]
    ms: np.ndarray  # (inputs, outputs); never falls where a width grows

    def at(self, into: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Milliseconds at widths, arrays of one shape: linear between the grid's points, constant outside."""
        low_in, share_in = _between(self.grid_in, into)
        low_out, share_out = _between(self.grid_out, out)
        high_in = np.minimum(low_in + 1, len(self.grid_in) - 1)
        high_out = np.minimum(low_out + 1, len(self.grid_out) - 1)
        near = self.ms[low_in, low_out] * (1 - share_out) + self.ms[low_in, high_out] * share_out
        far = self.ms[high_in, low_out] * (1 - share_out) + self.ms[high_in, high_out] * share_out
        return near * (1 - share_in) + far * share_in


def _between(grid: Sequence[int], widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Place of the grid's point at or below each width, share of the way to the next)."""
    points = np.array(grid, dtype=float)
    place = np.interp(widths, points, np.arange(len(points)))
    low = np.minimum(place.astype(np.int64), max(len(points) - 2, 0))
    return low, place - low


@dataclass(frozen=True)
class Stacked:
    """The times of several layers in arrays of one shape, so that all are added up at once."""

    columns: np.ndarray  # (c,) of the width table
    grids: np.ndarray  # (c, p) widths of each column's grid, infinite behind its end
    last: np.ndarray  # (c,) the last place of a grid that has a next one
    into: np.ndarray  # (layers,) places among the columns
    out: np.ndarray
    ms: np.ndarray  # (layers, p, p)

    @classmethod
    def of(cls, layers: Sequence[TimedLayer], times: Sequence[LayerTimes]) -> Stacked:
        """Of each layer's times, on its columns of the width table."""
        places: dict[tuple[int, tuple[int, ...]], int] = {}
        ends = [
            ((layer.into, each.grid_in), (layer.out, each.grid_out)) for layer, each in zip(layers, times, strict=True)
        ]
        both = [[places.setdefault(end, len(places)) for end in pair] for pair in ends]
        most = max((len(grid) for _, grid in places), default=1)
        into, out = np.array(both, dtype=np.int64).reshape(-1, 2).T
        return cls(
            np.array([column for column, _ in places], dtype=np.int64),
            np.array([[*grid, *[np.inf] * (most - len(grid))] for _, grid in places]).reshape(-1, most),
            np.array([max(len(grid) - 2, 0) for _, grid in places], dtype=np.int64),
            into,
            out,
            np.array([np.pad(one.ms, [(0, most - size) for size in one.ms.shape], "edge") for one in times])
            .reshape(-1, most, most),
        )  # fmt: skip

    def total(self, widths: np.ndarray) -> np.ndarray:
        """Milliseconds of all layers at widths, (..., columns) -> (...,): the sum of `LayerTimes.at`."""
        own = widths[..., self.columns]
        low = np.minimum((own[..., None] >= self.grids[:, 1:]).sum(-1), self.last)
        high = np.minimum(low + 1, self.grids.shape[1] - 1)
        every = np.arange(len(self.columns))
        start, end = self.grids[every, low], self.grids[every, high]
        share = np.clip((own - start) / np.where(end > start, end - start, np.inf), 0, 1)
        layer, total = np.arange(len(self.into)), np.zeros(own.shape[:-1])
        for row, weight in ((low, 1 - share), (high, share)):
            for column, other in ((low, 1 - share), (high, share)):
                each = self.ms[layer, row[..., self.into], column[..., self.out]]
                total += (each * weight[..., self.into] * other[..., self.out]).sum(-1)
        return total


def rising(ms: np.ndarray) -> np.ndarray:
    """`ms`, (inputs, outputs), such that no value falls where a width grows: timings scatter."""
    for axis in (0, 1):
        up = np.maximum.accumulate(ms, axis=axis)
        down = np.flip(np.minimum.accumulate(np.flip(ms, axis), axis=axis), axis)
        ms = (up + down) / 2
    return ms


def device_words(device: torch.device) -> str:
    """The device's name as tables have it: of a CPU with the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {counted(torch.get_num_threads(), 'thread')}"


def layer_times(layer: TimedLayer, device: torch.device, storage: Storage, time: Time | None = None) -> LayerTimes:
    """The times of a layer: from the storage, else measured now and kept there. The machine must be idle."""
    shape: dict[str, Any] = {"device": device_words(device), "layer": layer.kind, "torch": torch.__version__}
    shape |= {"widths_in": list(layer.grid_in), "widths_out": list(layer.grid_out), "tied": layer.into == layer.out}
    key = f"{FOLDER}/{digest('layer', shape)}.json"
    ms = read_ms(storage, key)
    if ms is None:
        ms = rising(np.array(_measured(layer, device, time or _time)))
        create_object(storage, key, shape | {"ms": ms.tolist()})
    return LayerTimes(layer.grid_in, layer.grid_out, ms)


def _measured(layer: TimedLayer, device: torch.device, time: Time) -> list[list[float]]:
    """Milliseconds at every point of the grid. A layer whose sides are one has the same numbers in every row."""
    grid_in = layer.grid_out[-1:] if layer.into == layer.out else layer.grid_in
    found = []
    for into in grid_in:
        row = []
        for out in layer.grid_out:
            module, given = layer.build(out if layer.into == layer.out else into, out)
            row.append(time(module.to(device), given.to(device)))
        found.append(row)
    return found * len(layer.grid_in) if layer.into == layer.out else found


def _time(module: nn.Module, given: Tensor) -> float:
    return median_ms(module, given, PACE)


def read_ms(storage: Storage, key: str) -> np.ndarray | None:
    """The times of a table; None if there is none, or after a damaged one was set aside."""
    content = read_sealed(storage, key, {"device": is_text, "layer": is_text, "ms": _is_table}, "measured again")
    return None if content is None else np.array(content["ms"], dtype=float)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) and all(map(is_number, row)) for row in value)
