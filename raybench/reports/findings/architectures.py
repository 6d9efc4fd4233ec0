"""Methods whose place depends on the architecture: those whose places on two models don't overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from raybench.reports.findings.answer import Answer
from raybench.reports.findings.places import places

TITLE = "Methods that depend on the architecture"
CLAIM = "bn-scale, hrank and lamp are good on some architectures and bad on others; the weight norms are not so."
COLUMNS = ("method", "best on", "mean place there, %", "worst on", "mean place there, % ", "apart", "overlap")
FEWEST = 2  # rankings on a model, so that its places have a range
SHOWN = 5  # methods that the sentence names


class Row(NamedTuple):
    """One method, as COLUMNS; places in percent, 0 is the best."""

    method: str
    best_on: str
    best: float
    worst_on: str
    worst: float
    apart: float
    overlap: str


def answer(rows: pd.DataFrame) -> Answer:
    """Mean place of each method on each model, and whether the ranges over datasets and speed-ups overlap."""
    found = places(rows)
    found = found.assign(architecture=found["model"].str.removeprefix("cifar-"))
    if found["architecture"].nunique() < 2:
        return Answer("Nothing can be said: the rankings are of one model, or of none.")
    table = _table(found)
    if not table:
        return Answer("Nothing can be said: no method has two rankings on each of two models.")
    few = found.groupby(["label", "architecture"]).size().median() < 5
    return Answer(_sentence(table, few=few), COLUMNS, tuple(table))


def _table(found: pd.DataFrame) -> list[Row]:
    """A row for each method with FEWEST rankings on each of two models, those that lie furthest apart first."""
    table = []
    for label, own in found.groupby("label"):
        models = own.groupby("architecture")["share"].agg(["mean", "min", "max", "size"])
        models = models[models["size"] >= FEWEST]
        if len(models) > 1:
            low, high = models.loc[models["mean"].idxmin()], models.loc[models["mean"].idxmax()]
            overlap = "no" if low["max"] < high["min"] else "yes"
            best, worst, apart = (
                round(100 * share, 1) for share in (low["mean"], high["mean"], high["mean"] - low["mean"])
            )
            table.append(Row(label, models["mean"].idxmin(), best, models["mean"].idxmax(), worst, apart, overlap))
    return sorted(table, key=lambda row: (-row.apart, row.method))


def _sentence(table: Sequence[Row], *, few: bool) -> str:
    """Which methods depend on the architecture; `few`: there are few rankings on each model."""
    furthest = f"Mean places lie furthest apart for {table[0].method}."
    separate = [row for row in table if row.overlap == "no"]
    if not separate:
        return (
            f"{furthest} For no method are places on two models without overlap, so none can be called dependent on "
            "the architecture."
        )
    top = ", ".join(
        f"{row.method} ({row.best_on} {row.best:.0f} %, {row.worst_on} {row.worst:.0f} %)" for row in separate[:SHOWN]
    )
    more = f" and {len(separate) - SHOWN} more" if len(separate) > SHOWN else ""
    chance = " With so few rankings a model some of this is chance." if few else ""
    return f"{furthest} Places on two models don't overlap for {top}{more}.{chance}"
