"""What `raybench search` prints: a table of cells, the fit and its error, and how the winner compares."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raybench.cli.output import print_rows
from raybench.errors import counted
from raybench.sweep.target import Amount

if TYPE_CHECKING:
    from raybench.search.asked import Asked
    from raybench.search.cells import Sample
    from raybench.search.run import Found

COLUMNS = ("depth", "width", "image", "asked", "got", "speed-up", "val %", "test %", "cell", "")


def print_found(found: Found, asked: Asked, title: str) -> None:
    """Print all that was found, as a table and sentences."""
    title = f"{title}: {asked.target} by {', '.join(asked.dimensions)} ({asked.sampler})"
    best = found.best(asked)
    rows = [_row(found, one, "best sample" if one is best else "") for one in found.samples]
    compared = [one for one in (found.width_only, found.winner) if one]
    rows += [_row(found, one, one.role) for one in compared]
    print_rows(rows, [name for name in COLUMNS if any(name in row for row in rows)], title=title)
    for point, why in found.failed:
        size, amount = found.space.side(point.size), Amount(point.speedup, asked.target.kind)
        print(f"no result: depth {point.depth:g}, images of {size}, {amount}: {why}")
    for why in found.refused:
        print(f"left out: {why}")
    print("\n".join(_told(found, asked, best)))


def _told(found: Found, asked: Asked, best: Sample | None) -> list[str]:
    """The fit and its error, and the winner beside what it is compared with."""
    lines = []
    if fitted := found.polynomial:
        spare = "no sample to spare" if fitted.left_out is None else f"{fitted.left_out:.2f} leaving one out"
        terms = counted(len(fitted.coefficients), "coefficient")
        terms += f", of which the samples tell {fitted.rank} apart" if fitted.rank < len(fitted.coefficients) else ""
        lines.append(f"polynomial of degree 2, {terms}: off by {fitted.residual:.2f} points (rms), {spare}")
        if found.predicted is None:
            lines.append(
                f"no network of {asked.target} lies among the samples, and beyond them a fit says nothing: the "
                "winner is the best\nsample; with more --samples, or another --seed, the fit may choose"
            )
        else:
            lines.append(f"predicted for the winner: {found.predicted:.2f} % on the validation split")
    if found.winner:
        said = [f"winner {found.winner.value:.2f} % (test {found.winner.final:.2f})"]
        said += [f"best sample {best.value:.2f} ({best.final:.2f})"] if best else ["no sample meets the target"]
        if found.width_only:
            said.append(f"width only {found.width_only.value:.2f} ({found.width_only.final:.2f})")
        lines.append("; ".join(said))
        if best and found.choice(asked) is not found.winner:
            lines.append(
                f"the best sample, cell {best.trial_id}, did better than the winner: the command below exports it"
            )
        lines += [missed] if (missed := asked.missed(found.winner)) else []
    else:
        lines.append(f"no winner: no network that was measured comes to {asked.target}")
    return lines


def _row(found: Found, one: Sample, role: str) -> dict[str, Any]:
    point, space = one.point, found.space
    unit = " ms" if space.kind == "latency_ms" else "x"  # of what, the title says
    row = {
        "depth": f"{point.depth:.2f}",
        "width": f"{space.shown_width((point.depth, point.size), one.macs):.2f}",
        "image": space.side(point.size),
        "asked": f"{point.speedup:.3g}{unit}",
        "speed-up": f"{one.speedup:.2f}x",
        "val %": f"{one.value:.2f}",
        "test %": f"{one.final:.2f}",
        "cell": one.trial_id,
        "": role,
    }
    return row if space.kind == "macs" else row | {"got": f"{one.got:.3g}{unit}"}


def as_json(found: Found, asked: Asked, storage: str) -> dict[str, Any]:
    """All that was found, for programs."""
    fitted = found.polynomial

    def shown(one: Sample | None) -> dict[str, Any] | None:
        return None if one is None else asdict(one) | {"image": found.space.side(one.point.size)}

    winner, width_only, best = map(shown, (found.winner, found.width_only, found.best(asked)))
    return {
        **asdict(asked), "target": asked.target.value, "target_kind": asked.target.kind,
        "storage": storage, "cells": [shown(one) for one in found.samples],
        "winner": winner, "missed": found.winner and asked.missed(found.winner), "best": best,
        "width_only": width_only, "predicted": found.predicted,
        "residual": fitted and fitted.residual, "left_out": fitted and fitted.left_out,
        "failed": [asdict(point) | {"why": why} for point, why in found.failed], "refused": found.refused,
    }  # fmt: skip
