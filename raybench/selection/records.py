"""The result of a selection, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """A selection: which units stay, and what the pruned network will cost. Counts are per image."""

    kept: Mapping[str, tuple[int, ...]]  # group name -> kept unit indices, ascending
    target: float  # requested speed-up, or what the trial's target is of
    speedup: float  # base MACs / MACs
    macs_base: int
    macs: int
    params_base: int
    params: int
    macs_tp_base: int | None = None  # as torch-pruning counts them, to compare with the paper
    macs_tp: int | None = None
    reason: str | None = None  # why the target was missed by more than 0.5 %, e.g. "granularity", "floor: a, b"
    steps: int = 0
    removed: tuple[int, ...] = ()  # tokens that each block removes, of a method that removes tokens
    network: str | None = None  # a smaller dense network that stands in place of a cut one, with its parameters
    selected_ms: float | None = None  # of one image as timed when it was selected, where the target is a latency
    predicted_ms: float | None = None  # of one image as the table of layers has it
    blocks: tuple[str, ...] = ()  # modules that were removed whole before channels were chosen, in the network's order
    blocks_base: int = 0  # how many could have been, where that was asked
