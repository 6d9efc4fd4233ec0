"""`raybench search SWEEP`: finds depth, width and image size of a network for a target speed-up."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.quantities import speedup
from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.errors import UserError, counted
from raybench.execution.interrupt import INTERRUPTED
from raybench.sweep.kinds import DIMENSIONS

if TYPE_CHECKING:
    from raybench.search.cells import Sample
    from raybench.search.run import Asked, Found

COLUMNS = ("depth", "width", "image", "asked", "speed-up", "val %", "test %", "cell", "")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_sweep(parser)
    add = parser.add_argument
    text = "what may change: %(choices)s (default: all three); depths and image_sizes of the sweep are the choices"
    add("--dimensions", nargs="+", choices=DIMENSIONS, default=list(DIMENSIONS), metavar="D", help=text)
    add("--target", type=speedup, required=True, metavar="N", help="speed-up of the base network to reach: 3 or 3x")
    text = "cells of each seed that are measured (default: 15 for three dimensions, 9 for two, 5 for one)"
    add("--samples", type=int, metavar="N", help=text)
    text = "polynomial (default): even samples, a fit, and its optimum; optuna: Ray Tune's searcher, the same budget"
    add("--sampler", choices=("polynomial", "optuna"), default="polynomial", help=text)
    add("--seed", type=int, default=0, metavar="N", help="of the sampler, not of the cells (default: 0)")
    for name in ("dataset", "model", "method"):
        add(f"--{name}", metavar="NAME", help=f"only this {name} of the sweep; a search takes one")
    add("--storage", metavar="DIR", help="where results are written (default: the sweep's, or results/NAME)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--address", metavar="A", help="Ray cluster: auto or HOST:PORT (default: start Ray here)")
    where.add_argument("--local", action="store_true", help="run in this process, without Ray")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Search, and print samples, prediction and winner."""
    sweep = read_sweep(args)
    if args.samples is not None and args.samples < 1:
        raise UserError(f"--samples: found {args.samples}, expected a number above 0")
    if args.seed < 0:
        raise UserError(f"--seed: found {args.seed}, expected 0 or more")
    from raybench.execution.progress import watcher
    from raybench.execution.run import run_sweep
    from raybench.search.cells import Interrupted, cells_of, narrowed
    from raybench.search.run import Asked, search

    sweep = narrowed(sweep, {"datasets": args.dataset, "models": args.model, "methods": args.method})
    runs = partial(run_sweep, local=args.local, address=args.address, plugins=args.plugin, watcher=watcher())
    cells = cells_of(sweep, args.target, args.storage, runs)
    asked = Asked(
        args.target,
        tuple(name for name in DIMENSIONS if name in args.dimensions),
        args.samples,
        args.sampler,
        args.seed,
        sweep.depths if len(sweep.depths) > 1 else (),
        sweep.image_sizes if len(sweep.image_sizes) > 1 else (),
    )
    try:
        with redirect_stdout(sys.stderr):  # what the network's own code prints
            found = search(cells, asked, lambda line: print(line, file=sys.stderr))
    except Interrupted:
        print(f"interrupted; to continue: {shlex.join(['raybench', *sys.argv[1:]])}")
        return INTERRUPTED
    if args.format == "json":
        print_json(_as_json(found, asked, cells.storage))
    else:
        title = f"{sweep.methods[0].name}, {sweep.models[0].name} on {sweep.datasets[0].name}"
        _print(found, asked, f"{title}: {args.target:g}x by {', '.join(asked.dimensions)} ({args.sampler})")
        print(f"cells: raybench leaderboard {shlex.quote(cells.storage)}")
    return 0 if found.winner else 1


def _print(found: Found, asked: Asked, title: str) -> None:
    best = found.best(asked.target)
    rows = [_row(found, one, "best sample" if one is best else "") for one in found.samples]
    compared = [one for one in (found.width_only, found.winner) if one]
    rows += [_row(found, one, one.role) for one in compared]
    print_rows(rows, COLUMNS, title=title)
    for point, why in found.failed:
        size = found.space.side(point.size)
        print(f"no result: depth {point.depth:g}, images of {size}, {point.speedup:g}x: {why}")
    for why in found.refused:
        print(f"left out: {why}")
    print("\n".join(_told(found, best)))


def _told(found: Found, best: Sample | None) -> list[str]:
    """The fit and its error, and the winner beside what it is compared with."""
    lines = []
    if (fitted := found.polynomial) and found.predicted is not None:
        spare = "no sample to spare" if fitted.left_out is None else f"{fitted.left_out:.2f} leaving one out"
        terms = counted(len(fitted.coefficients), "coefficient")
        lines.append(f"polynomial of degree 2, {terms}: off by {fitted.residual:.2f} points (rms), {spare}")
        lines.append(f"predicted for the winner: {found.predicted:.2f} % on the validation split")
    if found.winner:
        said = [f"winner {found.winner.value:.2f} % (test {found.winner.final:.2f})"]
        said += [f"best sample {best.value:.2f} ({best.final:.2f})"] if best else ["no sample meets the target"]
        if found.width_only:
            said.append(f"width only {found.width_only.value:.2f} ({found.width_only.final:.2f})")
        lines.append("; ".join(said))
    return lines


def _row(found: Found, one: Sample, role: str) -> dict[str, Any]:
    point, space = one.point, found.space
    return {
        "depth": f"{point.depth:.2f}",
        "width": f"{space.width_of((point.depth, point.size), one.macs):.2f}",
        "image": space.side(point.size),
        "asked": f"{point.speedup:.2f}x",
        "speed-up": f"{one.speedup:.2f}x",
        "val %": f"{one.value:.2f}",
        "test %": f"{one.final:.2f}",
        "cell": one.trial_id,
        "": role,
    }


def _as_json(found: Found, asked: Asked, storage: str) -> dict[str, Any]:
    fitted = found.polynomial

    def shown(one: Sample | None) -> dict[str, Any] | None:
        return None if one is None else asdict(one) | {"image": found.space.side(one.point.size)}

    winner, width_only, best = map(shown, (found.winner, found.width_only, found.best(asked.target)))
    return {
        **asdict(asked), "storage": storage, "cells": [shown(one) for one in found.samples],
        "winner": winner, "best": best,
        "width_only": width_only, "predicted": found.predicted,
        "residual": fitted and fitted.residual, "left_out": fitted and fitted.left_out,
        "failed": [asdict(point) | {"why": why} for point, why in found.failed], "refused": found.refused,
    }  # fmt: skip
