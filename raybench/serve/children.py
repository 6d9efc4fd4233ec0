"""Runs verbs of raybench in processes of their own: user code, torch and ray never enter the server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from raybench.errors import UserError


@dataclass(frozen=True)
class Answer:
    """What a verb printed: its JSON, and its warnings."""

    found: Any
    notes: tuple[str, ...]


AT_ONCE = threading.BoundedSemaphore(2)  # plans and dry runs: each takes a core for a moment
ANSWER_S = 120.0  # for a plan, a dry run or a check of weights


def command(*arguments: str) -> list[str]:
    """The command line of a verb. `-P`: the current folder does not come before the libraries."""
    return [sys.executable, "-P", "-m", "raybench", *arguments]


def answer(arguments: Sequence[str], folder: Path, *, hide: Path | None = None) -> Answer:
    """The JSON that a verb prints, and its warnings.

    Args:
        arguments: the verb and its options.
        folder: the current folder of the process, from which own modules are imported.
        hide: a file whose path is left out of messages.

    Raises:
        UserError: the verb refused what it was given, in its own words, or took too long.
    """
    with AT_ONCE:
        try:
            done = subprocess.run(command(*arguments), cwd=folder, env=environment(), capture_output=True,
                                  text=True, errors="replace", timeout=ANSWER_S)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise UserError(f"no answer within {ANSWER_S:.0f} s; a run would take as long to start") from error
    if done.returncode:
        raise UserError(message(done.stderr, arguments[0], hide))
    notes = [line.partition("warning: ")[2] for line in done.stderr.splitlines() if line.startswith("warning: ")]
    return Answer(json.loads(done.stdout), tuple(notes))


def start(arguments: Sequence[str], folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a verb whose output goes to `log`; Ctrl-C of the server's terminal does not reach it."""
    return subprocess.Popen(command(*arguments), cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=log,
                            stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


def environment() -> dict[str, str]:
    """This process's variables, for lines without colour as they are written."""
    return {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "160"}


def message(printed: str, verb: str, hide: Path | None) -> str:
    """What a verb printed as its error, without its own name, the path of a hidden file, and warnings before it."""
    text = printed.strip()
    if hide is not None:
        text = re.sub(rf"{re.escape(str(hide))}:(\d+)", r"line \1", text).replace(str(hide), "the sweep")
    _, marked, last = text.rpartition(f"raybench {verb}: ")
    found = last if marked else "\n".join(text.splitlines()[-3:])
    found = re.sub(r"^\d+ mistakes?\n", "", found.strip())
    return found or f"raybench {verb} ended without a message"
