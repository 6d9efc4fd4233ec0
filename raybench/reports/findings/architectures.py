"""Methods whose place depends on the architecture: those whose places on two models don't overlap."""

from __future__ import annotations

import pandas as pd

from raybench.reports.findings.answer import Answer
from raybench.reports.findings.places import places

TITLE = "Methods that depend on the architecture"
CLAIM = "bn-scale, hrank and lamp are good on some architectures and bad on others; the weight norms are not so."
COLUMNS = ("method", "best on", "mean place there, %", "worst on", "mean place there, % ", "apart", "overlap")
FEWEST = 2  # rankings on a model, so that its places have a range


def answer(rows: pd.DataFrame) -> Answer:
    """Mean place of each method on each model, and whether the ranges over datasets and speed-ups overlap."""
    found = places(rows)
    found = found.assign(architecture=found["model"].str.removeprefix("cifar-"))
    if found["architecture"].nunique() < 2:
        return Answer("Nothing can be said: the rankings are of one model, or of none.")
    table = []
    for label, own in found.groupby("label"):
        models = own.groupby("architecture")["share"].agg(["mean", "min", "max", "size"])
        models = models[models["size"] >= FEWEST]
        if len(models) > 1:
            low, high = models.loc[models["mean"].idxmin()], models.loc[models["mean"].idxmax()]
            apart = 100 * (high["mean"] - low["mean"])
            overlap = "no" if low["max"] < high["min"] else "yes"
            names = (models["mean"].idxmin(), round(100 * low["mean"], 1), models["mean"].idxmax())
            table.append((label, *names, round(100 * high["mean"], 1), round(apart, 1), overlap))
    if not table:
        return Answer("Nothing can be said: no method has two rankings on each of two models.")
    table.sort(key=lambda row: (-row[5], row[0]))
    apart_names = [row for row in table if row[6] == "no"]
    top = ", ".join(f"{row[0]} ({row[1]} {row[2]:.0f} %, {row[3]} {row[4]:.0f} %)" for row in apart_names[:5])
    sentence = f"Mean places lie furthest apart for {table[0][0]}. "
    sentence += (
        f"Places on two models don't overlap for {top}" if apart_names else "For no method are places on two models"
    )
    sentence += "" if apart_names else " without overlap, so none can be called dependent on the architecture"
    more = len(apart_names) - 5
    few = found.groupby(["label", "architecture"]).size().median() < 5 and apart_names
    chance = " With so few rankings a model some of this is chance." if few else ""
    return Answer(f"{sentence}{f' and {more} more' if more > 0 else ''}.{chance}", COLUMNS, tuple(table))
