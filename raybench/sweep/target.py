"""The target of a cell: how much of which cost, as asked and as text. Imports nothing of raybench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

TargetKind = Literal["macs", "params", "latency_ms", "latency"]
TARGETS: tuple[TargetKind, ...] = ("macs", "params", "latency_ms", "latency")
TIMED: tuple[TargetKind, ...] = ("latency_ms", "latency")  # measured on the device of the cells
UNIT: dict[TargetKind, str] = {"macs": "x", "params": "x params", "latency_ms": " ms", "latency": "x latency"}
ASKED = (  # columns of a row: one of them has a value
    "speedup_target", "ratio", "params_target", "latency_target_ms", "latency_target",
)  # fmt: skip


class Amount(NamedTuple):
    """How much is asked of one cost: base / pruned, or milliseconds for `latency_ms`."""

    value: float
    kind: TargetKind = "macs"

    def __str__(self) -> str:
        """As people write it: ``2x``, ``2x params``, ``3 ms`` or ``2x latency``."""
        return f"{self.value:g}{UNIT[self.kind]}"


def amount(
    speedup: float | None,
    ratio: float | None,
    params: float | None = None,
    latency_ms: float | None = None,
    latency: float | None = None,
) -> str:
    """The asked amount of pruning: ``2x`` for a speed-up, ``ratio 0.5``, ``2x params``, ``3 ms`` or ``2x latency``."""
    others: tuple[tuple[float | None, TargetKind], ...]
    others = (params, "params"), (latency_ms, "latency_ms"), (latency, "latency")
    for value, kind in others:
        if value is not None:
            return str(Amount(value, kind))
    return f"{speedup:g}x" if ratio is None else f"ratio {ratio:g}"


def asked_of(row: Mapping[str, Any]) -> tuple[float | None, ...]:
    """The values of a row's columns ASKED."""
    return tuple(row.get(name) for name in ASKED)


def amount_of(row: Mapping[str, Any]) -> str:
    """The asked amount of a row, as text."""
    return amount(*(row.get(name) for name in ASKED))
