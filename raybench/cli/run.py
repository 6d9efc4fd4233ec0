"""`raybench run SWEEP`: runs the missing cells of a sweep, on Ray or in this process."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from typing import TYPE_CHECKING

from raybench.cli.output import say
from raybench.cli.sweep_arguments import add_sweep, add_track
from raybench.errors import brief, counted, failure
from raybench.execution.interrupt import INTERRUPTED

if TYPE_CHECKING:
    from raybench.execution.run import SweepEnd

SHOWN_FAILURES = 10
SHOWN_REASONS = 5  # why cells are skipped; `raybench leaderboard` has all


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_sweep(parser)
    parser.add_argument(
        "--storage", metavar="DIR", help="where results are written (default: the sweep's, or results/NAME)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--address", metavar="A", help="Ray cluster: auto or HOST:PORT (default: start Ray here)")
    where.add_argument("--local", action="store_true", help="run in this process, without Ray")
    parser.add_argument("--only", metavar="TRIAL_ID", help="run only this cell and the stages that it needs")
    add_track(parser)
    parser.add_argument("--no-retry-failed", action="store_true", help="don't try again cells that failed before")


def run(args: argparse.Namespace) -> int:
    """Run what is missing. Returns 0 when every cell is ok or skipped, 1 when some failed, 130 when interrupted."""
    from raybench.execution.progress import watcher
    from raybench.execution.run import run_sweep
    from raybench.execution.trackers import tracked

    end = run_sweep(
        args.sweep,
        args.storage,
        local=args.local,
        address=args.address,
        plugins=args.plugin,
        only=args.only,
        retry_failed=not args.no_retry_failed,
        watcher=tracked(args.track, watcher()),
    )
    if end.interrupted:
        print(f"interrupted; to continue: {shlex.join(['raybench', *sys.argv[1:]])}")
        return INTERRUPTED
    if not end.planned:
        print(f"nothing to run: {counted(len(end.statuses), 'cell')} planned, none missing")
    return _conclude(end)


def _conclude(end: SweepEnd) -> int:
    """Print the counts, the failures, where the files are and which command to use next."""
    counts, url = Counter(end.statuses.values()), shlex.quote(end.storage)
    print(
        f"{counted(len(end.statuses), 'cell')}: " + ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
    )
    reasons = Counter(end.reasons.values()).most_common()
    for reason, count in reasons[:SHOWN_REASONS]:
        say(f"  {count} skipped: {brief(reason)}")
    if rest := reasons[SHOWN_REASONS:]:
        say(f"  {sum(count for _, count in rest)} skipped for {counted(len(rest), 'other reason')}")
    failed = [trial_id for trial_id, status in end.statuses.items() if status in ("failed", "missing")]
    for trial_id in failed[:SHOWN_FAILURES]:
        outcome = end.outcomes.get(trial_id)
        why = " in an earlier run"
        if outcome:
            why = f" in {outcome.stage}: {brief(failure(outcome.error_type, outcome.error_message))}"
        say(f"  {end.statuses[trial_id]} {trial_id}{why}")
    if len(failed) > SHOWN_FAILURES:
        say(f"  and {len(failed) - SHOWN_FAILURES} more")
    if failed:
        print(f"details of one: raybench show {failed[0]} --results {url}")
    print(f"files: {end.storage}\nleaderboard: raybench leaderboard {url}")
    return 1 if failed else 0
