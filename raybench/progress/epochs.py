"""Prints the progress of long training stages from log records, at most one line every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EPOCHS = "raybench.epochs"  # logger of one record per finished epoch, with `left`: seconds to the stage's end
EVERY_S = 10.0


class _EpochHandler(logging.Handler):
    def __init__(self, say: Callable[[str], None], every: float) -> None:
        super().__init__(logging.INFO)
        self._say, self._every, self._last = say, every, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            left = record.__dict__["left"]
            self._say(f"{record.getMessage()}, about {f'{left:.0f} s' if left < 120 else f'{left / 60:.0f} min'} left")


@contextmanager
def report_epochs(say: Callable[[str], None], every: float | None = None) -> Iterator[None]:
    """Call `say` with a line about training in this process, at most every `every` seconds; short stages have none.

    With None every epoch is a line at log level DEBUG, which ``--verbose`` sets, else one in EVERY_S seconds.
    """
    if every is None:
        every = 0.0 if logging.getLogger("raybench").isEnabledFor(logging.DEBUG) else EVERY_S
    logger, handler = logging.getLogger(EPOCHS), _EpochHandler(say, every)
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
