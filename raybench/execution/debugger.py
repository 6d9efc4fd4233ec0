"""Tells a live display of a debugger that is about to prompt, so that it leaves the terminal."""

from __future__ import annotations

import bdb
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def before_debugger(leave: Callable[[], None]) -> Callable[[], None]:
    """Call `leave` whenever `breakpoint()`, `pdb.set_trace()` or a debugger built on pdb starts.

    Returns:
        A function that ends this.
    """
    original = bdb.Bdb.set_trace

    def set_trace(self: bdb.Bdb, frame: FrameType | None = None, *args: Any, **kwargs: Any) -> None:
        leave()
        original(self, frame or sys._getframe().f_back, *args, **kwargs)

    def end() -> None:
        if bdb.Bdb.set_trace is set_trace:
            bdb.Bdb.set_trace = original  # type: ignore[method-assign]  # as it was before

    bdb.Bdb.set_trace = set_trace  # type: ignore[method-assign]  # the one place that all of them pass
    return end
