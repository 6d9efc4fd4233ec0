"""Exceptions that raybench raises on purpose, the messages for unknown names, and warnings as lines."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


class RaybenchError(Exception):
    """Base class of every error that raybench raises on purpose."""

    exit_code = 1


class UserError(RaybenchError):
    """A mistake in what the user typed: printed without a traceback, exit code 2."""

    exit_code = 2


class SpecError(UserError):
    """A sweep file holds an invalid key or value.

    Printed as ``FILE:LINE: KEY: found X; expected Y; did you mean Z?``.
    """

    def __init__(
        self,
        message: str,
        *,
        file: Path | str | None = None,
        line: int | None = None,
    ) -> None:
        self.message, self.file, self.line = message, file, line
        where = "" if file is None else f"{file}:{line}: " if line else f"{file}: "
        super().__init__(f"{where}{message}")


class NotSupported(RaybenchError):
    """This combination can't be run; the reason is written to the row of a *skipped* cell."""


class StageError(RaybenchError):
    """A stage failed. `stage` is its name, for the row of the failed cell."""

    def __init__(self, stage: str, message: str) -> None:
        self.stage = stage
        super().__init__(message)


class StageLost(StageError):
    """A shared stage is damaged or gone. It is not where it was any more, so that planning again makes it again."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest of `names`, or an empty string when none is close."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """Message for an unknown name: what was found, the nearest known name, and all known names."""
    known = sorted(names)
    return f"unknown {kind} {name!r}.{nearest(name, known)} Known: {', '.join(known)}"


@contextmanager
def handled_warnings(handle: Callable[[str, type[Warning], str], bool]) -> Iterator[None]:
    """Pass each warning that would be shown to `handle`; those that it returns False for are shown as usual.

    Args:
        handle: called with the warning's text, its class and the file that raised it.
    """
    previous = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not handle(str(message), category, filename):
            previous(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = previous
