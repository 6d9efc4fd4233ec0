"""Parameters against MACs against latency: what a speed-up means for the other two."""

from __future__ import annotations

import pandas as pd

from raybench.reports.findings.answer import Answer

TITLE = "Parameters, MACs, latency"
CLAIM = (
    "Parameters and MACs don't fall in proportion: at one speed-up methods keep very different shares of parameters."
)
COLUMNS = (
    "model",
    "dataset",
    "target",
    "cells",
    "kept in proportion, %",
    "least kept, %",
    "median kept, %",
    "most kept, %",
    "median latency gain, x",
)


def answer(rows: pd.DataFrame) -> Answer:
    """Ranges of kept parameters, and the gain in latency, for each model and speed-up."""
    asked = rows[rows["speedup_target"].notna()].copy()
    if asked.empty:
        return Answer("No finished cell.")
    asked["gain"] = asked["latency_base_ms"].astype(float) / asked["latency_ms"].astype(float)
    table, wide, gains = [], [], []
    for (dataset, model, speedup), own in asked.groupby(["dataset", "model", "speedup_target"]):
        kept = 100 * own["params_kept"]
        gain = own["gain"].dropna().median()
        figures = (round(100 / speedup, 1), round(kept.min(), 1), round(kept.median(), 1), round(kept.max(), 1))
        table.append((model, dataset, f"{speedup:g}x", len(own), *figures, "–" if pd.isna(gain) else round(gain, 2)))
        wide.append((kept.max() / max(kept.min(), 1e-9), model, dataset, speedup, kept.min(), kept.max()))
        gains += [] if pd.isna(gain) else [(gain / speedup, gain, model, dataset, speedup)]
    factor, model, dataset, speedup, least, most = max(wide)
    sentence = (
        f"At one speed-up the share of parameters kept differs by up to {factor:.1f}x between cells: {least:.1f} to "
        f"{most:.1f} % of {model} on {dataset} at {speedup:g}x. "
    )
    if not gains:
        return Answer(f"{sentence}There are no latencies, so nothing can be said about time.", COLUMNS, tuple(table))
    low, high = min(gains), max(gains)
    sentence += f"Latency gains between {100 * low[0]:.0f} and {100 * high[0]:.0f} % of what MACs promise: "
    sentence += f"{low[4]:g}x fewer MACs make {low[2]} on {low[3]} {low[1]:.2f}x faster"
    return Answer(f"{sentence}. This holds for the devices of these rows only.", COLUMNS, tuple(table))
