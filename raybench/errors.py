"""What can go wrong, sorted by who has to act: the person who typed, or us."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class RaybenchError(Exception):
    """Root of every error that raybench raises on purpose."""

    exit_code = 1


class UserError(RaybenchError):
    """A mistake of the person who typed: printed without a traceback, exit code 2."""

    exit_code = 2


class SpecError(UserError):
    """A sweep file says something that it may not say.

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
    """This combination can't be done, for a reason that a row can carry: it becomes a *skipped* cell."""


class StageError(RaybenchError):
    """A stage failed; carries the stage's name so that the failed row can say it."""

    def __init__(self, stage: str, message: str) -> None:
        self.stage = stage
        super().__init__(message)


def nearest(name: str, names: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest of `names`, or an empty string when none comes near."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """One sentence for an unknown name: what was found, what is allowed, the nearest."""
    known = sorted(names)
    return f"unknown {kind} {name!r}.{nearest(name, known)} Known: {', '.join(known)}"
