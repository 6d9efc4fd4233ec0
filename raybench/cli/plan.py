"""`raybench plan SWEEP`: what a run would do, in under a second; imports neither torch nor ray."""

from __future__ import annotations

import argparse
from collections import Counter

from rich.console import Console

from raybench.cli.output import add_format, print_json, print_rows
from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.errors import UserError
from raybench.plan import Plan, plan
from raybench.plan_view import as_json, board_rows, cell_states, cost_lines, stage_rows
from raybench.results.store import Store
from raybench.storage.base import Storage
from raybench.storage.open import open_storage


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_sweep(parser)
    parser.add_argument(
        "--storage", metavar="DIR", help="what is in here is done already (default: the sweep's, or results/NAME)"
    )
    parser.add_argument("--no-retry-failed", action="store_true", help="leave failed cells as they are")
    parser.add_argument(
        "--timings", metavar="DIR",
        help="tell the cost (GPU-hours) from the finished cells in this results folder, e.g. of a pilot that ran one "
        "cell a model with `raybench run SWEEP --only TRIAL_ID` (default: the storage)",
    )  # fmt: skip
    add_format(parser)


def run(args: argparse.Namespace) -> None:
    """Print the plan."""
    sweep = read_sweep(args)
    url = args.storage or sweep.storage or f"results/{sweep.name}"  # as `run`
    planned = plan(sweep, open_storage(url), retry_failed=not args.no_retry_failed, timed=_timed(args.timings))
    if args.format == "json":
        print_json(as_json(planned, sweep.name))
    else:
        _print(planned, sweep.name, url)


def _timed(url: str | None) -> Storage | None:
    """The storage behind --timings; UserError when nothing in it was ever finished."""
    if url is None:
        return None
    storage = open_storage(url)
    if not Store(storage).timings():
        raise UserError(f"--timings {url}: found no finished cells there; expected the storage of an earlier run")
    return storage


def _print(planned: Plan, name: str, url: str) -> None:
    states = Counter(status for status, _ in cell_states(planned))
    told = ", ".join(
        f"{states[status]} {status}" for status in ("planned", "done", "skipped", "failed") if states[status]
    )
    _say(f"{name}: {len(planned.trials)} cells: {told} (storage {url})")
    if retried := sum(planned.stored.get(unit.key) == "failed" for unit in planned.cells):
        _say(f"{retried} of the planned ones failed before and are tried again")
    if planned.units:
        print()
        print_rows(list(board_rows(planned.cells)), ["dataset", "model", "methods", "strategies", "speedups", "cells"])
    if planned.stages:
        print()
        print_rows(list(stage_rows(planned)), ["shared stage", "units", "what"])
    if planned.skips:
        print()
        reasons = Counter(skip.reason for skip in planned.skips)
        print_rows([{"skipped": n, "reason": reason} for reason, n in reasons.items()], ["skipped", "reason"])
    if planned.unchecked:
        _say(f"\nchecked at start: {', '.join(planned.unchecked)}")
    if planned.cost:
        _say("\n" + "\n".join(cost_lines(planned.cost)))


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
