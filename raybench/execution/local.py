"""``raybench run --local``: the same units, one by one, in this process, for debuggers and machines without Ray."""

from __future__ import annotations

import time

from raybench.execution.driver import Run
from raybench.execution.worker import execute
from raybench.progress.epochs import epochs_told

IDLE_S = 0.5  # between looks at units that another driver holds


def fit(run: Run) -> None:
    """Run every unit of `run` that can be run."""
    while not run.finished:
        unit = run.take()
        if unit is None:
            time.sleep(IDLE_S)
            continue
        try:
            with epochs_told(run.watcher.say):
                run.over(execute(unit, run.assignment))
        except KeyboardInterrupt:
            run.queue.give_back(unit.key)
            raise
