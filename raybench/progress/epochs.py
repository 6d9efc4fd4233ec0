"""Prints the progress of long training stages from log records: a first estimate, then a line every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raybench.progress.words import duration

# Logger of a record per finished epoch, and of some within long ones. `left`: seconds to the end; `each`: of an
# epoch.
EPOCHS = "raybench.epochs"
EVERY_S = 10.0
InAll = Callable[[float, float], float | None]  # (seconds left of the stage, seconds of an epoch) -> of the whole run


class _EpochHandler(logging.Handler):
    def __init__(self, say: Callable[[str], None], every: float, in_all: InAll | None) -> None:
        super().__init__(logging.INFO)
        self._say, self._every, self._last, self._in_all = say, every, time.monotonic(), in_all
        self._silent = True

    def emit(self, record: logging.LogRecord) -> None:
        left, each = record.__dict__["left"], record.__dict__["each"]
        first = self._silent and left > EVERY_S  # of a long stage: without waiting
        if first or time.monotonic() - self._last >= self._every:
            self._last, self._silent = time.monotonic(), False
            self._say(record.getMessage() + self._rest(left, each))

    def _rest(self, left: float, each: float) -> str:
        """``, about 40s left in this stage, 2m 10s in all``; empty at the end."""
        whole = self._in_all(left, each) if self._in_all else None
        if whole is not None and left < 1 <= whole:
            return f", about {duration(whole)} left in all"
        if whole is not None and whole > left + 1:
            return f", about {duration(left)} left in this stage, {duration(whole)} in all"
        return f", about {duration(left)} left" if left >= 1 else ""


@contextmanager
def report_epochs(
    say: Callable[[str], None], every: float | None = None, in_all: InAll | None = None
) -> Iterator[None]:
    """Call `say` with a line about training in this process, at most every `every` seconds; short stages have none.

    A stage that takes long gets its first line as soon as that is known. With `in_all` lines also say what is left of
    the whole run.

    With None every epoch is a line at log level DEBUG, which ``--verbose`` sets, else one in EVERY_S seconds.
    """
    if every is None:
        every = 0.0 if logging.getLogger("raybench").isEnabledFor(logging.DEBUG) else EVERY_S
    logger, handler = logging.getLogger(EPOCHS), _EpochHandler(say, every, in_all)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
