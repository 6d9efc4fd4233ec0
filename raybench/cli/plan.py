"""`raybench plan SWEEP`: shows what a run would do. Imports neither torch nor ray."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from typing import TYPE_CHECKING

from raybench.cli.output import add_format, print_json, print_rows, say
from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.errors import UserError, counted
from raybench.plan.plan import plan
from raybench.plan.records import Plan
from raybench.plan.uncollected import uncollected
from raybench.plan.view import (
    as_json,
    axes_of,
    board_rows,
    cell_rows,
    cell_states,
    cost_lines,
    damage_lines,
    gathering_line,
    open_questions,
    share_lines,
    stage_rows,
)
from raybench.results.store import Store
from raybench.storage.base import Storage
from raybench.storage.open import open_storage

if TYPE_CHECKING:  # with numpy
    from raybench.reports.statistics.plan_seeds import SeedsNeeded


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_sweep(parser)
    parser.add_argument(
        "--storage",
        metavar="DIR",
        help="storage whose finished cells count as done (default: the sweep's, or results/NAME)",
    )
    parser.add_argument("--no-retry-failed", action="store_true", help="don't try again cells that failed before")
    parser.add_argument(
        "--timings", metavar="DIR",
        help="storage whose finished cells give the cost estimate (GPU-hours), e.g. of a pilot that ran one cell per "
        "model with `raybench run SWEEP --only TRIAL_ID` (default: the storage)",
    )  # fmt: skip
    parser.add_argument(
        "--resolution", type=float, metavar="POINTS",
        help="print how many seeds distinguish two methods that differ by so much: the 95 %% interval of their "
        "difference is no wider than plus or minus POINTS; the spread is that of the finished cells of --timings or "
        "the storage",
    )  # fmt: skip
    parser.add_argument("--spread", type=float, metavar="POINTS", help="standard deviation of same-seed differences")
    parser.add_argument("--cells", action="store_true", help="list every cell with the id that `run --only` takes")
    add_format(parser)


@uncollected()
def run(args: argparse.Namespace) -> None:
    """Print the plan."""
    sweep = read_sweep(args)
    url = args.storage or sweep.storage or f"results/{sweep.name}"  # the same default as in `run`
    planned = plan(sweep, open_storage(url), retry_failed=not args.no_retry_failed, timed=_timed(args.timings))
    seeds = _seeds(args, url)
    if args.format == "json":
        print_json(as_json(planned, sweep.name) | ({"seeds_for_resolution": seeds.needed} if seeds else {}))
    else:
        _print(planned, args, sweep.name, url)
        if seeds:
            say(f"\n{seeds.sentence}")


def _seeds(args: argparse.Namespace, url: str) -> SeedsNeeded | None:
    """The seeds that --resolution needs; None where it isn't asked for."""
    if args.resolution is None:
        return None
    from raybench.reports.statistics.plan_seeds import seeds_for

    return seeds_for(args.resolution, args.spread, args.timings or url)


def _timed(url: str | None) -> Storage | None:
    """The storage given as --timings; UserError when it has no finished cells."""
    if url is None:
        return None
    storage = open_storage(url)
    if not Store(storage).timings():
        raise UserError(f"--timings {url}: found no finished cells there; expected the storage of an earlier run")
    return storage


def _filled(planned: Plan) -> list[str]:
    """Columns of the table of cells: those that say something, with the reason of a status last."""
    reasons = ["reason"] if any(why for _, why in cell_states(planned)) else []
    own = ["trial_id", "status", "dataset", "model", "method", "strategy", "target", "seed"]
    return [*own, *axes_of(planned), *reasons]


def _print(planned: Plan, args: argparse.Namespace, name: str, url: str) -> None:
    states = Counter(status for status, _ in cell_states(planned))
    counts = ", ".join(
        f"{states[status]} {status}" for status in ("planned", "done", "skipped", "failed") if states[status]
    )
    say(f"{name}: {counted(len(planned.trials), 'cell')}: {counts} (storage {url})")
    if retried := sum(planned.stored.get(unit.key) == "failed" for unit in planned.cells):
        say(f"{counted(retried, 'planned cell')} failed before; tried again")
    _print_tables(planned, args.cells)
    for lines in (damage_lines(planned), share_lines(planned), filter(None, [gathering_line(planned)])):
        if text := "\n".join(lines):
            say(f"\n{text}")
    if planned.skips:
        print()
        reasons = Counter(skip.reason for skip in planned.skips)
        print_rows([{"skipped": n, "reason": reason} for reason, n in reasons.items()], ["skipped", "reason"])
    if questions := open_questions(planned):
        say(f"\nthe run finds out, and may skip cells for it: {', '.join(questions)}")
    if planned.cost:
        say("\n" + "\n".join(cost_lines(planned.cost)))
    elif planned.cells:
        say(f"\ncost: not known, since no cell of its models has ended in {args.timings or url}. This runs one:")
        print(f"  {_run_one(planned, args)}")  # on one line, to be copied


def _print_tables(planned: Plan, cells: bool) -> None:
    """Planned cells by board, every cell if `cells`, and planned stages."""
    if planned.units:
        print()
        axes = ["dataset", "model", *axes_of(planned), "methods", "strategies", "speedups", "cells"]
        print_rows(list(board_rows(planned.cells)), [*axes, "first cell"])
    if cells:
        print()
        print_rows(list(cell_rows(planned)), _filled(planned))
    if planned.stages:
        print()
        print_rows(list(stage_rows(planned)), ["shared stage", "units", "what"])


def _run_one(planned: Plan, args: argparse.Namespace) -> str:
    """The command that runs one cell, which makes an estimate possible."""
    more = [*(f"--plugin={file}" for file in args.plugin), *(["--storage", args.storage] if args.storage else [])]
    return shlex.join(["raybench", "run", args.sweep, *more, "--only", planned.cells[0].trials[0].trial_id])
