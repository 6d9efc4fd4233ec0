"""``raybench run --local``: runs units one by one in this process, for debugging and machines without Ray."""

from __future__ import annotations

import gc
import time
from functools import partial

from raybench.execution.driver import Run
from raybench.execution.interrupt import asked_to_end
from raybench.execution.worker import execute, preload
from raybench.progress.epochs import report_epochs

IDLE_S = 0.5  # between checks of units that another driver holds


def fit(run: Run) -> None:
    """Run units until none is left. On KeyboardInterrupt the unit goes back to the queue."""
    preload()
    try:
        _run_all(run)
    finally:
        gc.unfreeze()


def _run_all(run: Run) -> None:
    while not run.finished and not run.interrupted:
        unit = run.take()
        if unit is None:
            time.sleep(IDLE_S)
            continue
        try:
            with report_epochs(run.watcher.say, in_all=partial(run.watcher.left, unit)):
                outcome = execute(unit, run.assignment.granting(run.grants.of(unit)), asked=asked_to_end)
            if run.interrupted and outcome.status == "failed":
                raise KeyboardInterrupt  # Ctrl-C made a library raise another error
            run.over(outcome)
        except KeyboardInterrupt:
            run.queue.give_back(unit.key)
            raise
