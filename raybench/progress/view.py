"""Renders a snapshot: as a panel for a terminal of any width, or as plain lines for a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from raybench.errors import counted
from raybench.progress.snapshot import Running, Snapshot, SweepState
from raybench.progress.words import coarse, duration, ended, ended_well, folded, moment, rate, tally
from raybench.results.left_out import left_out

RECENT = 6  # ended units that are shown
SHOWN = 12  # running units that are shown
FAILURES = 5  # reasons that are shown
STYLES = {"ok": "", "failed": "red", "skipped": "dim", "interrupted": "yellow"}


@dataclass(frozen=True)
class Folded:
    """A line that is broken behind commas and semicolons where the terminal is narrower: never within a duration."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(folded(self.text, options.max_width)), style=self.style)


def panel(snapshot: Snapshot) -> Group:
    """The whole snapshot, folded to the terminal's width."""
    parts: list[Any] = []
    for sweep in snapshot.sweeps:
        parts += [Folded(headline(sweep), "bold")]
        style = "" if sweep.driver is None or sweep.driver.alive or sweep.complete else "yellow"
        parts += [Folded(text, style) for text in driver_lines(sweep, snapshot.time)]
    parts += [Folded(pace(snapshot)), *(Text(text, style="yellow") for text in damage_lines(snapshot))]
    if snapshot.running:
        parts += [Text(""), running_table(_rows(snapshot)[:SHOWN], snapshot.time)]
    if len(snapshot.running) > SHOWN:
        parts += [Text(f"and {len(snapshot.running) - SHOWN} more", style="dim")]
    recent = _recent(snapshot)
    if recent:
        parts += [Text(""), *(Text(recent_line(entry), STYLES.get(entry["status"], "")) for entry in recent)]
    failures = list(failure_lines(snapshot))
    if failures:
        parts += [Text(""), *(Text(text, style="red") for text in failures)]
    return Group(*parts)


def running_table(rows: Iterable[Mapping[str, Any]], now: float) -> Table:
    """Table of running units. `rows` have label, stage, started, host and, in `raybench watch`, heartbeat.

    `now` and `started` are in seconds since 1970.
    """
    shown = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["running", "stage", "since", "on", *(["heartbeat"] if any("heartbeat" in row for row in shown) else [])]
    for column in columns:
        right = column == "since"
        wraps = column == "running"  # what runs is never cut
        overflow: Literal["fold", "ellipsis"] = "fold" if wraps else "ellipsis"
        table.add_column(column, no_wrap=not wraps, overflow=overflow, justify="right" if right else "left")
    for row in shown:
        cells = [row["label"], row["stage"], duration(now - row["started"]), row["host"], row.get("heartbeat", "")]
        table.add_row(*cells[: len(columns)], style=None if row.get("alive", True) else "yellow")
    return table


def plain(snapshot: Snapshot) -> Iterator[str]:
    """The whole snapshot as lines without markup, never cut."""
    for sweep in snapshot.sweeps:
        yield from (headline(sweep), *driver_lines(sweep, snapshot.time))
    yield pace(snapshot)
    yield from damage_lines(snapshot)
    for row in _rows(snapshot):
        since = duration(snapshot.time - row["started"])
        state = "running" if row["alive"] else "killed or lost:"
        yield f"{state} {row['label']}: {row['stage']} for {since} on {row['host']}, heartbeat {row['heartbeat']}"
    yield from map(ended_line, _recent(snapshot))
    yield from failure_lines(snapshot)


def headline(sweep: SweepState) -> str:
    """Progress of one sweep: ``quickstart: 12/56 cells (11 ok, 1 failed, 0 skipped), 3/8 shared stages``."""
    counts = tally(sweep.counts)
    name = f"{sweep.name}: " if sweep.name else ""
    if sweep.total is None:
        why = "no driver left a record that can be read" if sweep.driver is None else "the driver's plan can't be read"
        return f"{name}{counted(sweep.ended, 'cell')} ({counts}); their total is unknown: {why}"
    stages = f", {sweep.stages_done}/{counted(sweep.stages_total, 'shared stage')}" if sweep.stages_total else ""
    return f"{name}{sweep.ended}/{counted(sweep.total, 'cell')} ({counts}){stages}"


def driver_lines(sweep: SweepState, now: float) -> Iterator[str]:
    """The sweep's driver: since when it runs, or when it ended."""
    driver = sweep.driver
    if driver is None:
        return
    name, age = f"driver: {driver.host}, process {driver.pid}", duration(now - driver.last_heartbeat)
    if driver.alive:
        yield f"{name}, started {coarse(now - driver.began)} ago, heartbeat {age} ago"
    elif driver.status == "running":
        yield f"{name}: no heartbeat since {moment(driver.last_heartbeat)} ({age} ago): it was killed or lost"
    else:
        yield f"{name}: {driver.status} at {moment(driver.last_heartbeat)} ({coarse(now - driver.last_heartbeat)} ago)"
    if not driver.alive and not sweep.complete:
        yield "no driver runs the missing cells; the same `raybench run` or `submit` continues them"


def pace(snapshot: Snapshot) -> str:
    """Number of running units, cells per minute, and the estimated time left."""
    units = f"{counted(snapshot.held, 'unit')} running" if snapshot.held else "no units running"
    if snapshot.rate is None:
        return units
    left = f", about {duration(snapshot.seconds_left)} left" if snapshot.seconds_left else ""
    return f"{units}, {rate(snapshot.rate)}{left}"


def damage_lines(snapshot: Snapshot) -> Iterator[str]:
    """Result files that aren't counted, since they are damaged."""
    if snapshot.damaged:
        yield left_out(snapshot.url, snapshot.damaged)


def ended_line(entry: Mapping[str, Any]) -> str:
    """One line about an ended execution of the journal."""
    where = f" in {entry['stages'][-1]['stage']}" if entry["status"] == "failed" and entry["stages"] else ""
    return ended(
        entry["status"], entry["kind"], entry["label"] + where, seconds=entry["seconds"],
        summary=entry.get("summary", {}), error=str(entry.get("error", "")).partition("\n")[0],
    )  # fmt: skip


def recent_line(entry: Mapping[str, Any]) -> str:
    """The same, shorter: of an ended cell its final figure alone."""
    if entry["status"] != "ok" or entry["kind"] != "cell":
        return ended_line(entry)
    return ended_well(entry["label"], entry.get("summary", {}))


def failure_lines(snapshot: Snapshot) -> Iterator[str]:
    """Why cells failed, the most frequent reason first, and the command that shows one of them."""
    for failure in snapshot.failures[:FAILURES]:
        yield f"failed: {counted(failure.count, 'cell')} {failure.reason}"
    if len(snapshot.failures) > FAILURES:
        yield f"and {counted(len(snapshot.failures) - FAILURES, 'more reason')}"
    if snapshot.failures:
        yield f"details of one: raybench show {snapshot.failures[0].trial_id} --results {snapshot.url}"


def _recent(snapshot: Snapshot) -> list[Mapping[str, Any]]:
    """The last ended cells and failed stages; stages that went well are left out."""
    return [entry for entry in snapshot.ended if entry["kind"] == "cell" or entry["status"] != "ok"][-RECENT:]


def _rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "label": row.label, "stage": row.stage, "started": row.since, "host": f"{row.host}:{row.pid}",
            "heartbeat": _heartbeat(row, snapshot.time), "alive": row.alive,
        }
        for row in snapshot.running
    ]  # fmt: skip


def _heartbeat(row: Running, now: float) -> str:
    if row.last_heartbeat is None:
        return "can't be read"
    age = duration(now - row.last_heartbeat)
    return f"{age} ago" if row.alive else f"none for {age}"
