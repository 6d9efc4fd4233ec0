"""`raybench run SWEEP`: bring a sweep to its end, on Ray or in this process."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.plan import Plan, plan
from raybench.spec.sweep import Resources
from raybench.storage.open import check_writable, open_storage

if TYPE_CHECKING:
    from raybench.execution.driver import Run

SHOWN_FAILURES = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_sweep(parser)
    parser.add_argument("--storage", metavar="DIR", help="where all goes (default: the sweep's, or results/NAME)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--address", metavar="A", help="a Ray cluster (auto, HOST:PORT); default: start Ray here")
    where.add_argument("--local", action="store_true", help="run in this process, without Ray")
    parser.add_argument("--only", metavar="TRIAL_ID", help="run this cell alone, and the stages that it needs")
    parser.add_argument("--no-retry-failed", action="store_true", help="leave failed cells as they are")


def run(args: argparse.Namespace) -> int:
    """Run what is missing; 0 when every cell is ok or skipped, 1 when some failed, 130 when interrupted."""
    from raybench.execution.driver import Run, only_cell
    from raybench.execution.progress import watcher
    from raybench.execution.worker import Assignment

    sweep = read_sweep(args)
    storage = open_storage(args.storage or sweep.storage or f"results/{sweep.name}")

    def make_plan() -> Plan:
        whole = plan(sweep, storage, retry_failed=not args.no_retry_failed)
        return only_cell(whole, args.only) if args.only else whole

    plugins = {Path(file).name: Path(file).read_bytes() for file in args.plugin}
    resources = sweep.resources
    assignment = Assignment(storage.url, dict(sweep.data_roots), plugins, resources.cpus, resources.gpus)
    work = Run(storage, assignment, watcher(), sweep=sweep.name)
    try:
        _execute(work, make_plan, resources, args)
    except KeyboardInterrupt:
        work.interrupted = True
    if work.interrupted:
        print(f"interrupted; to continue: {shlex.join(['raybench', *sys.argv[1:]])}")
        return 130
    return _conclude(work, make_plan(), storage.url)


def _execute(work: Run, make_plan: Callable[[], Plan], resources: Resources, args: argparse.Namespace) -> None:
    """Hand the work to this process or to Ray; to neither when there is nothing to run."""
    from raybench.execution.driver import drive

    first = make_plan()
    if first.units or first.skips:
        check_writable(work.storage)
    if not first.units:
        print(f"nothing to run: {len(first.trials)} cells planned, all of them settled")
        drive(work, make_plan, lambda run: None)
        return
    if not args.address:  # a cluster's workers have data and weights that this machine may lack
        from raybench.pipeline.check import check_input

        work.watcher.say("checking data, weights and networks")
        check_input(first.units, work.assignment.data_roots, work.storage)
    if args.local:
        from raybench.execution.local import fit

        drive(work, make_plan, fit)
    else:
        from raybench.execution.cluster import connected

        work.watcher.say(f"joining the Ray cluster {args.address}" if args.address else "starting Ray on this machine")
        with connected(args.address):
            from raybench.execution.tune import executor

            drive(work, make_plan, executor(resources, args.address))


def _conclude(work: Run, left: Plan, url: str) -> int:
    """Say what came out, where it lies and what to type next."""
    statuses = {trial.trial_id: left.stored.get(trial.trial_id, "missing") for trial in left.trials}
    counts = Counter(statuses.values())
    print(f"{len(statuses)} cells: " + ", ".join(f"{counts[status]} {status}" for status in sorted(counts)))
    failed = [trial_id for trial_id, status in statuses.items() if status in ("failed", "missing")]
    for trial_id in failed[:SHOWN_FAILURES]:
        outcome = work.outcomes.get(trial_id)
        why = f" in {outcome.stage}: {outcome.error_type}: {outcome.error_message}" if outcome else " in an earlier run"
        print(f"  {statuses[trial_id]} {trial_id}{why}")
    if len(failed) > SHOWN_FAILURES:
        print(f"  and {len(failed) - SHOWN_FAILURES} more")
    if failed:
        print(f"everything known of one: raybench show {failed[0]} --results {shlex.quote(url)}")
    print(f"files: {url}\nleaderboard: raybench leaderboard {shlex.quote(url)}")
    return 1 if failed else 0
