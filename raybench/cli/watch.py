"""`raybench watch RESULTS`: shows the progress of a sweep from its storage alone, without a cluster."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live

from raybench.cli.quantities import duration
from raybench.cli.results import add_results
from raybench.errors import UserError
from raybench.execution.interrupt import INTERRUPTED
from raybench.progress.console import SafeConsole
from raybench.progress.snapshot import Snapshot, StoreReader, SweepState, is_there
from raybench.progress.view import driver_lines, ended_line, failure_lines, headline, panel, plain
from raybench.storage.base import Storage
from raybench.storage.open import open_storage

UNFINISHED = 3  # exit code of --once
EXIT_CODES = (
    "exit codes: 0 when every cell is ok or skipped, 1 when cells failed or are missing and no driver runs, "
    "2 when RESULTS can't be read, 130 when interrupted. With --once: 0 when every cell is ok or skipped, 1 when cells "
    "failed, 3 when none failed and some are missing, or the records that would say so can't be read."
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_results(parser)
    parser.add_argument(
        "--interval",
        type=duration,
        default=5.0,
        metavar="TIME",
        help="time between two reads of the storage, such as 5 (seconds) or 1m (default: 5)",
    )
    parser.add_argument("--once", action="store_true", help="print the progress once and end")
    parser.add_argument(
        "--wait", action="store_true", help="stay when no driver runs and cells are missing: wait for the next driver"
    )
    parser.epilog = EXIT_CODES


def run(args: argparse.Namespace) -> int:
    """Show the progress until the sweep is complete or no driver runs. Returns the exit code, see EXIT_CODES."""
    storage, console = open_storage(args.results), SafeConsole()
    try:
        if args.once:
            if not is_there(storage):
                raise UserError(f"nothing in {storage.url}: expected the --storage of a run")
            snapshot = StoreReader(storage).read()
            _print(console, snapshot)
            return 1 if _failed(snapshot) else UNFINISHED if _missing(snapshot) else 0
        _wait_for_a_run(storage, console, args.interval)
        follow = _live if console.is_terminal else _lines
        last = follow(_snapshots(StoreReader(storage), console, args.interval, args.wait), console)
    except KeyboardInterrupt:
        return INTERRUPTED
    return int(_failed(last) or _missing(last))


def _wait_for_a_run(storage: Storage, console: Console, interval: float) -> None:
    """Wait until a run has written to the storage: a job that was just submitted takes a while."""
    if is_there(storage):
        return
    _say(console, f"nothing in {storage.url} yet: waiting for a run to start")
    while not is_there(storage):
        time.sleep(interval)


def _snapshots(reader: StoreReader, console: Console, interval: float, wait: bool) -> Iterator[Snapshot]:
    """Read the storage every `interval` s until the sweep ends. A read that fails after the first is tried again."""
    snapshot, failing = reader.read(), False
    yield snapshot
    while not _over(snapshot, wait):
        time.sleep(interval)
        try:
            snapshot = reader.read()
        except OSError as error:
            if not failing:
                _say(console, f"{error}: trying again")
            failing = True
            continue
        failing = False
        yield snapshot


def _live(snapshots: Iterator[Snapshot], console: Console) -> Snapshot:
    """Show a panel that is redrawn in place; the last state stays on the screen."""
    snapshot = next(snapshots)
    with Live(panel(snapshot), console=console, auto_refresh=False) as live:
        for snapshot in snapshots:
            live.update(panel(snapshot), refresh=True)
    return snapshot


def _lines(snapshots: Iterator[Snapshot], console: Console) -> Snapshot:
    """Print the whole state once, then a line per ended unit and per change of driver, and counts at the end."""
    snapshot = first = before = next(snapshots)
    _print(console, snapshot)
    seen, shown = {_name(entry) for entry in snapshot.ended}, ""
    for snapshot in snapshots:
        fresh = [entry for entry in snapshot.ended if _name(entry) not in seen]
        seen |= {_name(entry) for entry in fresh}
        _say(console, *map(ended_line, fresh))
        if any(entry["kind"] == "cell" for entry in fresh):
            shown = _headlines(snapshot)
            _say(console, shown)
        known = [_driving(sweep) for sweep in before.sweeps]
        for sweep in snapshot.sweeps:
            if _driving(sweep) not in known:
                _say(console, *driver_lines(sweep, snapshot.time))
        before = snapshot
    if snapshot is not first:
        _say(console, *([_headlines(snapshot)] if _headlines(snapshot) != shown else []), *failure_lines(snapshot))
    return snapshot


def _over(snapshot: Snapshot, wait: bool) -> bool:
    """Whether to end: complete; or no driver runs, and either none is waited for or no plan says what is missing."""
    if snapshot.complete or snapshot.held:
        return snapshot.complete
    unplanned = all(sweep.total is None for sweep in snapshot.sweeps)
    left = all(sweep.driver is not None and not sweep.driver.alive for sweep in snapshot.sweeps)
    return unplanned or (left and not wait)


def _missing(snapshot: Snapshot) -> bool:
    """Whether cells of a plan have not ended, or no plan says which there are although a driver left something."""
    return snapshot.unreadable or any(
        sweep.total is not None and sweep.ended < sweep.total for sweep in snapshot.sweeps
    )


def _failed(snapshot: Snapshot) -> bool:
    return any(sweep.counts.get("failed") for sweep in snapshot.sweeps)


def _headlines(snapshot: Snapshot) -> str:
    return "; ".join(headline(sweep) for sweep in snapshot.sweeps)


def _driving(sweep: SweepState) -> tuple[str, str, bool] | None:
    """What identifies the state of the driver: changes when another one starts, or this one ends or dies."""
    driver = sweep.driver
    return None if driver is None else (driver.run, driver.status, driver.alive)


def _print(console: Console, snapshot: Snapshot) -> None:
    if console.is_terminal:
        console.print(panel(snapshot))
        return
    _say(console, *plain(snapshot))


def _say(console: Console, *lines: str) -> None:
    for text in lines:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _name(entry: Mapping[str, Any]) -> tuple[str, float]:
    return entry["key"], entry["started"]
