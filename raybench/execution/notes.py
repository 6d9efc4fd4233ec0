"""What changes in a run, written down at once, so that another process can go on with it after this one died."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from raybench.execution.driver import Run
from raybench.execution.message import decode_outcome, encode_outcome
from raybench.progress.outcome import Outcome

OUTCOMES, ATTEMPTS, MOVES = "outcomes", "attempts", "moves"  # fields of a Run
Note = Callable[[str, Any], None]  # (key of a unit, what is now known of it)


@dataclass(frozen=True)
class Noted:
    """How far a process had come.

    Attributes:
        began: whether it had taken a unit, or found one that another run had ended: its checks were over.
        ended: how many units had ended.
        unit: key of the unit that it had taken and not ended; empty if none.
    """

    began: bool = False
    ended: int = 0
    unit: str = ""


def note_changes(work: Run, notes: IO[bytes]) -> None:
    """Write to `notes`, which must be unbuffered, what changes in `work` from now on."""

    def note_in(field: str, encode: Callable[[Any], object] = lambda value: value) -> Note:
        return lambda key, value: _write(notes, [field, key, encode(value)])

    work.outcomes = _NotedOutcomes(work.outcomes, note_in(OUTCOMES, encode_outcome))
    work.attempts = _NotedCounter(work.attempts, note_in(ATTEMPTS))
    work.moves = _NotedCounter(work.moves, note_in(MOVES))


def recall(work: Run, content: bytes) -> Noted:
    """Bring `work` to where the process was that wrote `content`. In this run what ended isn't tried again."""
    began, unit, ended = False, "", 0
    for field, key, value in _lines(content):
        began = True
        if field == OUTCOMES:
            if outcome := decode_outcome(value):
                work.outcomes[key] = outcome
                ended += outcome.status != "again"
            unit = "" if unit == key else unit
        elif field == MOVES:
            work.moves[key] = value
        else:
            unit = key if value > work.attempts[key] else ""  # fewer: it was given back, or another run has it
            work.attempts[key] = value
    return Noted(began, ended, unit)


def _write(notes: IO[bytes], line: list[object]) -> None:
    notes.write(f"{json.dumps(line)}\n".encode())


def _lines(content: bytes) -> Iterator[list[Any]]:
    """What was written, without a line that its process didn't finish."""
    return (json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n"))


class _NotedOutcomes(dict[str, Outcome]):
    """Outcomes of which each is noted as it comes."""

    def __init__(self, known: Mapping[str, Outcome], note: Note) -> None:
        super().__init__(known)
        self._note = note

    def __setitem__(self, key: str, outcome: Outcome) -> None:
        super().__setitem__(key, outcome)
        self._note(key, outcome)


class _NotedCounter(Counter[str]):
    """Counts of which each change is noted."""

    def __init__(self, known: Mapping[str, int], note: Note) -> None:
        super().__init__(known)
        self._note = note

    def __setitem__(self, key: str, count: int) -> None:
        super().__setitem__(key, count)
        self._note(key, count)
