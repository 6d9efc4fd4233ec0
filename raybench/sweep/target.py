"""The target of a cell as text. Imports nothing."""

from __future__ import annotations


def amount(speedup: float | None, ratio: float | None) -> str:
    """The asked amount of pruning: ``2x`` for a speed-up, ``ratio 0.5`` for a share of channels."""
    return f"{speedup:g}x" if ratio is None else f"ratio {ratio:g}"
