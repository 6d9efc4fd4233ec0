"""Progress of `raybench prune`: the recipe in one line, each unit as it starts, and its figures as it ends.

Training prints lines of its own. Slow scoring doesn't: a unit that is silent says from time to time that it works.
"""

from __future__ import annotations

import sys
import threading
import time

from raybench.execution.driver import Run, Watcher
from raybench.execution.tally import Tally
from raybench.plan.records import Unit
from raybench.progress.outcome import Outcome, label_of
from raybench.progress.words import duration
from raybench.reports.recipe_text import recipe_text

SILENT_S = 20.0  # before the first sign of life; the next ones after twice as long each


class PruneLines(Watcher):
    """Prints lines on standard error: what starts, and how it ended, indented below it."""

    def __init__(self) -> None:
        self._printed: set[str] = set()
        self._tally, self._sign = Tally(), SignOfLife()

    def begin(self, run: Run) -> None:
        """Print how networks are trained, once for each recipe."""
        self._tally = run.tally
        for unit in run.queue.units.values():
            trial = unit.trials[0]
            line = recipe_text(trial.recipe, base=trial.weights.trained)
            if (said := line.partition(": ")[2]) not in self._printed:  # names differ by calibration images, too
                self._printed.add(said)
                _say(f"recipe: {line}")

    def started(self, unit: Unit) -> None:
        """Print the kind of the unit and its label."""
        _say(f"{unit.kind}: {label_of(unit)} ...")
        self._sign.begin()

    def ended(self, unit: Unit, outcome: Outcome) -> None:
        """Print its figures, such as the accuracy of the base, and the time that is left."""
        self._sign.end()
        if outcome.status == "ok":
            figures = [_figure(name, value) for name, value in outcome.summary.items()]
            _say(f"  {', '.join([*figures, f'{outcome.seconds:.1f} s'])}{self._tally.eta()}")
        elif outcome.error_message not in self._printed:  # of a shared stage: its cells fail with the same message
            self._printed.add(outcome.error_message)
            _say(f"  {outcome.status}: {outcome.error_message}")

    def left(self, unit: Unit, stage_s: float, epoch_s: float) -> float:
        """Seconds left of the command."""
        return self._tally.left(unit, stage_s, epoch_s)

    def say(self, text: str) -> None:
        """Print it, indented."""
        self._sign.heard()
        _say(f"  {text}")

    def close(self) -> None:
        """The run has ended, whichever way."""
        self._sign.end()


class SignOfLife:
    """Prints how long a unit has been at work, where nothing else was printed for a while."""

    def __init__(self) -> None:
        self._heard_at, self._over = 0.0, threading.Event()

    def begin(self) -> None:
        """A unit starts."""
        self.end()
        self.heard()
        self._over = threading.Event()
        threading.Thread(target=self._watch, args=(self._over, self._heard_at), daemon=True).start()

    def heard(self) -> None:
        """Something was printed."""
        self._heard_at = time.monotonic()

    def end(self) -> None:
        """The unit has ended."""
        self._over.set()

    def _watch(self, over: threading.Event, began: float) -> None:
        silent_s = SILENT_S
        while not over.wait(silent_s):
            now = time.monotonic()
            if now - self._heard_at >= silent_s:
                _say(f"  at work for {duration(now - began)}")
                silent_s *= 2


def _figure(name: str, value: float) -> str:
    """``top1 95.82``; of a selection, whose figures are what each target reached, ``2x: reached 1.997``."""
    return f"{name}: reached {value:.4g}" if name[:1].isdigit() else f"{name.removeprefix('metric_')} {value:.4g}"


def _say(text: str) -> None:
    print(text, file=sys.stderr)
