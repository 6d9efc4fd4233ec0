"""The target of a cell: how much of which cost, as asked and as text. Imports nothing of raybench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

TargetKind = Literal["macs", "params", "latency_ms"]
TARGETS: tuple[TargetKind, ...] = ("macs", "params", "latency_ms")
ASKED = ("speedup_target", "ratio", "params_target", "latency_target_ms")  # columns of a row: one of them has a value


class Amount(NamedTuple):
    """How much is asked of one cost: base / pruned for `macs` and `params`, milliseconds for `latency_ms`."""

    value: float
    kind: TargetKind = "macs"


def amount(
    speedup: float | None, ratio: float | None, params: float | None = None, latency_ms: float | None = None
) -> str:
    """The asked amount of pruning: ``2x`` for a speed-up, ``ratio 0.5``, ``2x params`` or ``3 ms``."""
    if params is not None:
        return f"{params:g}x params"
    if latency_ms is not None:
        return f"{latency_ms:g} ms"
    return f"{speedup:g}x" if ratio is None else f"ratio {ratio:g}"


def asked_of(row: Mapping[str, Any]) -> tuple[float | None, ...]:
    """The values of a row's columns ASKED."""
    return tuple(row.get(name) for name in ASKED)


def amount_of(row: Mapping[str, Any]) -> str:
    """The asked amount of a row, as text."""
    return amount(*(row.get(name) for name in ASKED))
