"""`raybench watch RESULTS`: how far a sweep is, from anywhere that reaches its storage. Asks no cluster."""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.live import Live

from raybench.cli.results import add_results
from raybench.errors import UserError
from raybench.progress.snapshot import Reader, Snapshot, is_there
from raybench.progress.view import ended_line, headline, panel, plain
from raybench.storage.base import Storage
from raybench.storage.open import open_storage


def arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_results(parser)
    parser.add_argument("--interval", type=_seconds, default=5.0, metavar="S", help="look again after S s (default: 5)")
    parser.add_argument("--once", action="store_true", help="look once and end")


def run(args: argparse.Namespace) -> int:
    """Show it until it is complete; 1 when cells failed, 130 when interrupted."""
    storage, console = open_storage(args.results), Console()
    try:
        if args.once:
            if not is_there(storage):
                raise UserError(f"nothing in {storage.url}: expected the --storage of a run")
            snapshot = Reader(storage).read()
            _print(console, snapshot)
            return 0
        _wait_for_a_run(storage, console, args.interval)
        follow = _live if console.is_terminal else _lines
        last = follow(Reader(storage), console, args.interval)
    except KeyboardInterrupt:
        return 130
    return 1 if any(sweep.counts.get("failed") for sweep in last.sweeps) else 0


def _wait_for_a_run(storage: Storage, console: Console, interval: float) -> None:
    """A job that was just submitted takes a while to write its first word."""
    if is_there(storage):
        return
    console.print(f"nothing in {storage.url} yet: waiting for a run to begin", markup=False, highlight=False)
    while not is_there(storage):
        time.sleep(interval)


def _live(reader: Reader, console: Console, interval: float) -> Snapshot:
    """A panel that is redrawn in place; the last one stays."""
    snapshot = reader.read()
    with Live(panel(snapshot), console=console, auto_refresh=False) as live:
        while not _over(snapshot):
            time.sleep(interval)
            snapshot = reader.read()
            live.update(panel(snapshot), refresh=True)
    return snapshot


def _lines(reader: Reader, console: Console, interval: float) -> Snapshot:
    """Everything at first and at the end; between them a line for what has ended."""
    snapshot = reader.read()
    _print(console, snapshot)
    first, seen = snapshot, {_name(entry) for entry in snapshot.ended}
    while not _over(snapshot):
        time.sleep(interval)
        snapshot = reader.read()
        fresh = [entry for entry in snapshot.ended if _name(entry) not in seen]
        seen |= {_name(entry) for entry in fresh}
        for entry in fresh:
            console.print(ended_line(entry), markup=False, highlight=False, soft_wrap=True)
        if any(entry["kind"] == "cell" for entry in fresh):
            told = "; ".join(headline(sweep) for sweep in snapshot.sweeps)
            console.print(told, markup=False, highlight=False, soft_wrap=True)
    if snapshot is not first:
        _print(console, snapshot)
    return snapshot


def _over(snapshot: Snapshot) -> bool:
    """Complete; or old results that nobody works on and of which nobody said how many there will be."""
    return snapshot.complete or (not snapshot.held and all(sweep.total is None for sweep in snapshot.sweeps))


def _print(console: Console, snapshot: Snapshot) -> None:
    if console.is_terminal:
        console.print(panel(snapshot))
        return
    for text in plain(snapshot):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _name(entry: dict) -> tuple[str, float]:
    return entry["key"], entry["started"]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds above 0, such as 5")
    return seconds
