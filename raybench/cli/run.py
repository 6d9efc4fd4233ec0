"""`raybench run SWEEP`: bring a sweep to its end, on Ray or in this process."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from raybench.cli.sweep_arguments import add_sweep, read_sweep
from raybench.plan import Plan, plan
from raybench.storage.open import check_writable, open_storage

SHOWN_FAILURES = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_sweep(parser)
    parser.add_argument(
        "--storage", metavar="DIR", help="where all goes (default: the sweep's, or results/NAME)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--address", metavar="A", help="a Ray cluster (auto, HOST:PORT); default: start Ray here")
    where.add_argument("--local", action="store_true", help="run in this process, without Ray")
    parser.add_argument("--only", metavar="TRIAL_ID", help="run this cell alone, and the stages that it needs")
    parser.add_argument("--no-retry-failed", action="store_true", help="leave failed cells as they are")


def run(args: argparse.Namespace) -> int:
    """Run what is missing; 0 when every cell is ok or skipped, 1 when some failed, 130 when interrupted."""
    sweep = read_sweep(args)
    storage = open_storage(args.storage or sweep.storage or f"results/{sweep.name}")

    def make_plan() -> Plan:
        whole = plan(sweep, storage, retry_failed=not args.no_retry_failed)
        return only_cell(whole, args.only) if args.only else whole

    from raybench.execution.driver import Run, drive, only_cell
    from raybench.execution.progress import watcher
    from raybench.execution.worker import Assignment

    first = make_plan()
    if first.units or first.skips:
        check_writable(storage)
    plugins = {Path(file).name: Path(file).read_bytes() for file in args.plugin}
    resources = sweep.resources
    assignment = Assignment(storage.url, dict(sweep.data_roots), plugins, resources.cpus, resources.gpus)
    work = Run(storage, assignment, watcher())
    if not first.units:
        drive(work, make_plan, lambda run: None)
    elif args.local:
        from raybench.execution.local import fit

        drive(work, make_plan, fit)
    else:
        from raybench.execution.cluster import connected

        work.watcher.say(f"joining the Ray cluster {args.address}" if args.address else "starting Ray on this machine")
        with connected(args.address):
            from raybench.execution.tune import executor

            drive(work, make_plan, executor(resources, args.address))
    return _conclude(args, work, storage.url)


def _conclude(args: argparse.Namespace, work, url: str) -> int:  # noqa: ANN001 - its module is imported late
    """Say what came out, where it lies and what to type next."""
    if work.interrupted:
        print(f"interrupted; to continue: {shlex.join(['raybench', *sys.argv[1:]])}")
        return 130
    cells = [outcome for outcome in work.outcomes.values() if outcome.kind == "cell"]
    failed = [outcome for outcome in cells if outcome.status == "failed"]
    ok = sum(outcome.status == "ok" for outcome in cells)
    print(f"{len(cells)} cells run: {ok} ok, {len(failed)} failed, {len(cells) - ok - len(failed)} skipped")
    for outcome in failed[:SHOWN_FAILURES]:
        print(f"  failed {outcome.key} in {outcome.stage}: {outcome.error_type}: {outcome.error_message}")
    if failed:
        print(f"everything known of one: raybench show {failed[0].key} {shlex.quote(url)}")
    print(f"files: {url}\nleaderboard: raybench leaderboard {shlex.quote(url)}")
    return 1 if failed else 0
