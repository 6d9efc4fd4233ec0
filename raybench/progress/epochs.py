"""Long training stages in a line now and then, for those who wait at a terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EPOCHS = "raybench.epochs"  # the logger that is told of every finished epoch, with `left`: seconds to the stage's end
EVERY_S = 10.0


class _Sayer(logging.Handler):
    def __init__(self, say: Callable[[str], None], every: float) -> None:
        super().__init__(logging.INFO)
        self._say, self._every, self._last = say, every, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            left = record.__dict__["left"]
            self._say(f"{record.getMessage()}, about {f'{left:.0f} s' if left < 120 else f'{left / 60:.0f} min'} left")


@contextmanager
def epochs_told(say: Callable[[str], None], every: float = EVERY_S) -> Iterator[None]:
    """`say` a line on the training in this process, at most one in `every` seconds; short stages stay silent."""
    logger, sayer = logging.getLogger(EPOCHS), _Sayer(say, every)
    before = logger.level, logger.propagate
    logger.addHandler(sayer)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(sayer)
        logger.setLevel(before[0])
        logger.propagate = before[1]
