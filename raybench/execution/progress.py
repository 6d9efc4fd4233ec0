"""Shows the progress of a run: a live panel on a terminal, one line per event elsewhere."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from raybench.errors import UserError, brief, counted, failure
from raybench.execution.debugger import before_debugger
from raybench.execution.driver import Run, Watcher
from raybench.execution.tally import Tally
from raybench.plan.records import Unit
from raybench.progress.console import SafeConsole
from raybench.progress.journal import WAITING, present_stage, read_journal
from raybench.progress.outcome import Outcome, label_of
from raybench.progress.view import RECENT, SHOWN, STYLES, Folded, running_table
from raybench.progress.words import ended, ended_well
from raybench.storage.leases import TTL, Lease

REFRESH_S = 1.0
WAITS_S = 10.0  # between looks at what units wait for
CHECKING = "checking data, weights and networks"


def watcher(console: Console | None = None) -> Watcher:
    """A Panel if `console` (standard error by default) is a terminal, else Lines."""
    console = console or SafeConsole(stderr=True)
    return Panel(console) if console.is_terminal else Lines(console)


class Lines(Watcher):
    """Prints one line per event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally = Tally()
        self._watched, self._closed = threading.Event(), threading.Event()

    def checking(self) -> None:
        """Print it."""
        self.say(CHECKING)

    def begin(self, run: Run) -> None:
        """Print how much there is to do."""
        self._tally = run.tally
        if run.queue.units:
            cells = run.tally.total - run.tally.over
            stages = len(run.queue.units) - cells
            self._print(f"{counted(cells, 'cell')} to run, {counted(stages, 'shared stage')}")
            if not self._watched.is_set():
                self._watched.set()
                threading.Thread(target=self._watch, args=(run,), name="waits", daemon=True).start()

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """Print how a unit ended and how many cells are done."""
        self._print(f"[{self._tally.over}/{self._tally.total}] {sentence(unit, outcome)}{self._tally.eta()}")

    def say(self, text: str) -> None:
        """Print it."""
        self._print(text)

    def left(self, unit: Unit, stage_s: float, epoch_s: float) -> float:
        """Seconds left of the run."""
        return self._tally.left(unit, stage_s, epoch_s)

    def close(self) -> None:
        """Look at running units no longer."""
        self._closed.set()

    def _watch(self, run: Run) -> None:
        """Print what units of other processes wait for, each once. Workers of Ray can't print it."""
        printed: set[str] = set()
        silent = Silent(run)
        while not self._closed.wait(WAITS_S):
            with suppress(OSError, UserError):
                silent.look()
                rows = [row for unit in list(run.queue.running.values())[:SHOWN] for row in _present(run, unit)]
                others = [row for row in rows if WAITING in row["stage"] and row["pid"] != os.getpid()]
                waits = {f"{row['label']} on {row['host']}: {row['stage']}" for row in others}
                for text in sorted(waits - printed):
                    self.say(text)
                printed |= waits

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Panel(Watcher):
    """A panel that is redrawn in place; messages are printed above it."""

    def __init__(self, console: Console) -> None:
        self._tally = Tally()
        self._recent: deque[Text] = deque(maxlen=RECENT)
        self._run: Run | None = None
        self._rows: list[dict[str, Any]] = []
        self._closed = threading.Event()
        self._release: Callable[[], None] = lambda: None
        self._live = Live(console=console, get_renderable=self.__rich__, refresh_per_second=2, transient=True)

    def checking(self) -> None:
        """Print it."""
        self.say(CHECKING)

    def begin(self, run: Run) -> None:
        """Open the panel at the first plan."""
        self._run = run
        self._tally = run.tally
        if not self._live.is_started and run.queue.units:
            self._live.start()
            self._release = before_debugger(self._leave)
            threading.Thread(target=self._watch, name="progress", daemon=True).start()

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """Count the unit; show it if it is a cell or has failed."""
        if unit.kind == "cell" or outcome.status != "ok":
            line = Text(short_sentence(unit, outcome), style=STYLES[outcome.status])
            if self._closed.is_set():
                self._live.console.print(line)
            else:
                self._recent.append(line)

    def say(self, text: str) -> None:
        """Print it above the panel."""
        self._live.console.print(text, markup=False, highlight=False)

    def _leave(self) -> None:
        """Leave the terminal to a debugger: from here on, ended units are lines."""
        self.close()
        self._recent.clear()

    def recover(self) -> None:
        """Show the cursor, which the panel of the other process hid, and go on below that panel."""
        if self._live.console.show_cursor():
            self._live.console.print()

    def close(self) -> None:
        """Remove the panel; the last results stay on the screen."""
        self._closed.set()
        self._release()
        if self._live.is_started:
            self._live.stop()
            for line in self._recent:
                self._live.console.print(line)

    def __rich__(self) -> Group:
        number = len(self._run.queue.running) - len(self._run.waiting) if self._run else 0
        more = [Text(f"and {number - SHOWN} more", style="dim")] if number > SHOWN else []
        running = [running_table(self._rows, time.time())] if self._rows else []
        return Group(Folded(self._tally.headline(number), "bold"), *running, *more, *self._recent)

    def _watch(self) -> None:
        """Read the journals of running units; in a thread, so that a slow storage doesn't stall the drawing."""
        assert self._run is not None
        silent, looked = Silent(self._run), time.monotonic()
        while not self._closed.wait(REFRESH_S):
            waiting = self._run.waiting
            units = [unit for key, unit in list(self._run.queue.running.items()) if key not in waiting]
            with suppress(OSError, UserError):  # the storage is away: the rows stay as they were
                self._rows = [row for unit in units[:SHOWN] for row in _present(self._run, unit)]
                if time.monotonic() > looked + WAITS_S:
                    looked = time.monotonic()
                    silent.look()


class Silent:
    """Names running units whose process has stopped to renew its lease. Ray says nothing of one that stands still."""

    def __init__(self, run: Run) -> None:
        self._run, self._told = run, set[str]()

    def look(self) -> None:
        """Say of each such unit, once, which process it is and what ends the wait."""
        for key, unit in list(self._run.queue.running.items())[:SHOWN]:
            for row in _present(self._run, unit):
                text = f"{row['label']}: waiting for process {row['pid']} on {row['host']}, silent for {TTL:.0f} s"
                if row["pid"] == os.getpid() or text in self._told or Lease(self._run.storage, key).taken:
                    continue
                if key in self._run.queue.running and any(_present(self._run, unit)):  # it hasn't ended meanwhile
                    self._told.add(text)
                    self._run.watcher.say(f"{text} (stopped? cut off?); kill it to start the unit again")


def sentence(unit: Unit, outcome: Outcome) -> str:
    """`ok cell resnet20 magnitude-l2 ...: final 97.2 (3.1 s)`, or the stage and error of a failure."""
    label, error = label_of(unit), outcome.error_message
    if outcome.status == "failed":
        label, error = f"{label} in {outcome.stage}", failure(outcome.error_type, error)
    error = brief(error)
    return ended(outcome.status, unit.kind, label, seconds=outcome.seconds, summary=outcome.summary, error=error)


def short_sentence(unit: Unit, outcome: Outcome) -> str:
    """The same for a panel, of a cell that ended well its final figure alone: it fits into 80 characters."""
    if outcome.status != "ok":
        return sentence(unit, outcome)
    return ended_well(label_of(unit), outcome.summary)


def _present(run: Run, unit: Unit) -> Iterable[dict[str, Any]]:
    """Row of a running unit from its journal; none before its process has written to it."""
    entries = [entry for entry in read_journal(run.storage, unit.key) if entry["status"] == "running"]
    for entry in entries[-1:]:
        yield {"label": entry["label"], "host": entry["host"], "pid": entry["pid"], **present_stage(entry)}
