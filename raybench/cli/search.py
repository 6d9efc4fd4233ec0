"""`raybench search SWEEP`: finds depth, width and image size of a network for a target cost."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

from raybench.cli.output import add_format, print_json
from raybench.cli.prune_latency import TargetLatency, latency
from raybench.cli.quantities import speedup
from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.errors import UserError
from raybench.execution.interrupt import INTERRUPTED
from raybench.sweep.kinds import DIMENSIONS, WHOLE
from raybench.sweep.target import Amount

if TYPE_CHECKING:
    from raybench.execution.run import SweepEnd
    from raybench.sweep.sweep import Sweep
    from raybench.sweep.trial import Trial


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_sweep(parser)
    add = parser.add_argument
    target = parser.add_mutually_exclusive_group(required=True)
    text = "speed-up in MACs to reach: base / pruned, such as 3 or 3x"
    target.add_argument("--target", type=speedup, metavar="X", dest="macs", help=text)
    text = "base parameters / pruned parameters, such as 2 or 2x"
    target.add_argument("--target-params", type=speedup, metavar="X", dest="params", help=text)
    text = "time of one image, such as 5ms, or 1.5x for that much faster than the uncut network"
    target.add_argument("--target-latency", type=latency, metavar="TIME", dest="latency", help=text)
    text = "what may change: %(choices)s (default: all that changes the cost); depths and image_sizes of the sweep are "
    text += "the choices"
    add("--dimensions", nargs="+", choices=DIMENSIONS, metavar="D", help=text)
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
    target = _target(args)
    if args.latency and args.address:
        raise UserError(
            "--target-latency: found --address beside it, expected none: the networks to choose from are timed on this "
            "machine, the cells on the cluster's"
        )
    from raybench.cli.search_text import as_json, print_found
    from raybench.execution.cluster import kept
    from raybench.execution.progress import watcher
    from raybench.execution.run import run_sweep
    from raybench.search.asked import Asked, dimensions_of
    from raybench.search.cells import Interrupted, cells_of, narrowed
    from raybench.search.run import search

    sweep = narrowed(sweep, {"datasets": args.dataset, "models": args.model, "methods": args.method})

    def runs(sweep: Sweep, storage: str, cells: Sequence[Trial]) -> SweepEnd:
        where: dict[str, Any] = {"local": args.local, "address": args.address}
        return run_sweep(sweep, storage, cells=cells, **where, plugins=args.plugin, watcher=watcher())

    cells = cells_of(sweep, target, args.storage, runs)
    asked = Asked(
        target,
        dimensions_of(target, args.dimensions),
        args.samples,
        args.sampler,
        args.seed,
        sweep.depths if sweep.depths != (WHOLE,) else (),
        sweep.image_sizes,
    )
    try:
        with redirect_stdout(sys.stderr), nullcontext() if args.local else kept():  # what the network's code prints
            found = search(cells, asked, lambda line: print(line, file=sys.stderr))
    except Interrupted:
        print(f"interrupted; to continue: {shlex.join(['raybench', *sys.argv[1:]])}")
        return INTERRUPTED
    if args.format == "json":
        print_json(as_json(found, asked, cells.storage))
    else:
        print_found(found, asked, f"{sweep.methods[0].name}, {sweep.models[0].name} on {sweep.datasets[0].name}")
        print(f"cells: raybench leaderboard {shlex.quote(cells.storage)}")
        if choice := found.choice(asked):
            print(f"network: raybench export {choice.trial_id} --results {shlex.quote(cells.storage)} -o pruned")
    return 0 if found.winner else 1


def _target(args: argparse.Namespace) -> Amount:
    """What is asked, and of which cost."""
    asked: TargetLatency | None = args.latency
    if asked:
        return Amount(asked.value, "latency" if asked.relative else "latency_ms")
    return Amount(args.macs) if args.macs else Amount(args.params, "params")
