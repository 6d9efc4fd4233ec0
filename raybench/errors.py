"""Exceptions that raybench raises on purpose, wording of messages (unknown names, counts), warnings as lines."""

from __future__ import annotations

import difflib
import re
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from os.path import commonprefix
from pathlib import Path
from typing import TextIO

from raybench.error_text import message_of, name_of, shortened

LONGEST = 300  # characters of other code's message
MOST = 20_000  # characters of a message of ours, which may quote a name of megabytes
OURS = ("UserError", "SpecError", "ForeignError", "NotSupported", "StageError", "RecordError")  # raised on purpose
SELF_EVIDENT = (RuntimeError, ValueError, AssertionError)  # whose messages say what the type does

SAME = {  # what people type -> our word for it
    "gpu": "cuda", "learning_rate": "lr", "learningrate": "lr", "bs": "batch_size", "wd": "weight_decay",
    "scheduler": "schedule", "augmentation": "augment", "img_size": "image_size", "imgsz": "image_size",
    "size": "image_size", "l1": "magnitude-l1", "l2": "magnitude-l2", "distillation": "distill",
    "gradient_clip": "clip_grad",
}  # fmt: skip
MOST_BESIDE = 2_000  # names of a folder among which the nearest is looked for
LISTED = 30  # names of one kind that a message lists
# All but tab and newline: C0, DEL, C1, marks and overrides of the direction, lone surrogates (names that aren't UTF-8).
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_MEMORY_TYPES = re.compile(r"OutOfMemory|MemoryError")
_MEMORY_WORDS = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cannot allocate memory"
    r"|CU\w+_STATUS_\w*ALLOC\w*_FAILED",  # of cuBLAS, cuDNN and the like
    re.IGNORECASE,
)


class RaybenchError(Exception):
    """Base class of every error that raybench raises on purpose.

    Example:
        >>> issubclass(UserError, RaybenchError), issubclass(NotSupported, RaybenchError)
        (True, True)
    """

    exit_code = 1

    def __str__(self) -> str:
        """The message without control characters: it may quote a file, and a notebook prints it as it is."""
        return printable(shortened(super().__str__(), MOST))


class RaybenchWarning(UserWarning):
    """A warning whose text may quote a file: shown without control characters."""

    def __str__(self) -> str:
        return printable(super().__str__())


class UserError(RaybenchError):
    """A mistake in what the user typed: printed without a traceback, exit code 2.

    Example:
        >>> import raybench
        >>> try:
        ...     raybench.load_sweep("quickstrat")
        ... except raybench.UserError as error:
        ...     print(error)
        quickstrat: found no such file, nor a shipped sweep of that name. Did you mean 'quickstart'? Shipped: ...
    """

    exit_code = 2


class SpecError(UserError):
    """A sweep file holds an invalid key or value, or its entries don't go together."""


class NotSupported(RaybenchError):
    """This combination can't be run; the reason is written to the row of a *skipped* cell.

    Example:
        >>> import torch, raybench
        >>> raybench.prune(torch.nn.Linear(4, 2), torch.zeros(1, 4), 2)
        Traceback (most recent call last):
            ...
        raybench.errors.NotSupported: ...no group of channels...
    """


class StageError(RaybenchError):
    """A stage failed. `stage` is its name, for the row of the failed cell; empty: the one that runs."""

    def __init__(self, stage: str, message: str) -> None:
        self.stage = stage
        super().__init__(message)


class StageLost(StageError):
    """A shared stage is damaged or missing. Damaged files were moved aside before, so the next plan makes it again."""


def close(name: str, names: Iterable[str]) -> str | None:
    """The name of which `name` is a slip of the finger, of equal ones that with the same start; None if there is none.

    Example:
        >>> close("schedules", ["schedule", "speedups"]), close("schedules", ["speedups"])
        ('schedule', None)
    """
    found = difflib.get_close_matches(name, list(names), n=5, cutoff=0.8)
    alike = {one: difflib.SequenceMatcher(None, one, name).ratio() for one in found}
    return max(found, key=lambda one: (alike[one], len(commonprefix([one, name]))), default=None)  # noqa: RUF071


def nearest(name: str, names: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest of `names`, or an empty string when none is close.

    Another word for the same comes first, then a slip of the finger, then a name of which `name` is a whole word or the
    start, then one with the same letters.

    Example:
        >>> nearest("l1", ["lamp", "magnitude-l1"]), nearest("warmup", ["epochs", "warmup_epochs"])
        (" Did you mean 'magnitude-l1'?", " Did you mean 'warmup_epochs'?")
    """
    typed, known = str(name).lower(), list(names)
    if SAME.get(typed) in known:
        return f" Did you mean {SAME[typed]!r}?"
    words = [one for one in known if typed and typed in re.split(r"[^a-z0-9]+", str(one).lower())]
    starts = [one for one in known if len(typed) > 2 and str(one).lower().startswith(typed)]
    similar = difflib.get_close_matches(str(name), known, n=1, cutoff=0.55)
    found = close(str(name), known) or next(iter([*words, *starts, *similar]), None)
    return "" if found is None else f" Did you mean {found!r}?"


def nearest_path(path: Path, ending: str = "") -> str:
    """`` Did you mean 'folder/name'?`` for a file or folder beside `path` of which it is a slip of the finger, or "".

    Args:
        path: what was typed and isn't there.
        ending: a pattern of the names that count, such as ``.y*ml``; without it all do.
    """
    try:
        beside = {one.stem if ending else one.name: one for one in islice(path.parent.glob(f"*{ending}"), MOST_BESIDE)}
    except OSError:
        return ""
    found = close(path.stem if ending else path.name, beside)
    return f" Did you mean {str(beside[found])!r}?" if found else ""


def printable(text: str) -> str:
    """`text` with control characters and changes of the writing direction as escapes; lines and tabs stay.

    A name or message from a file could otherwise move a terminal's cursor, rewrite its lines or set its title.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 cell`, `2 cells`. `plural` is for nouns that don't take an s alone: `2 classes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or f'{noun}s'}"


def with_article(noun: str) -> str:
    """A noun with its article; capitals at its start are spelt.

    Example:
        >>> with_article("dict"), with_article("OrderedDict"), with_article("LSTM"), with_article("UNet")
        ('a dict', 'an OrderedDict', 'an LSTM', 'a UNet')
    """
    vowels = "AEFHILMNORSX" if noun[:2].isupper() else "AEIOUaeiou"
    return f"{'an' if noun[:1] in vowels else 'a'} {noun}"


def short_of_memory(kind: str, message: str) -> bool:
    """Whether an error's type and message say that memory was short, of the machine or of a device.

    Example:
        >>> short_of_memory("RuntimeError", "CUDA out of memory."), short_of_memory("KeyError", "'memory'")
        (True, False)
    """
    return bool(_MEMORY_TYPES.search(kind) or _MEMORY_WORDS.search(message))


def said(error: BaseException) -> str:
    """An error that other code raised, in one line: its type, its message and where in code that isn't installed.

    Example:
        >>> said(KeyError("width")), said(ValueError("found a \\n line."))
        ("KeyError: 'width'", 'found a line')
    """
    text = brief(message_of(error).rstrip().rstrip("."))
    kind = "" if text and type(error) in SELF_EVIDENT else name_of(error)
    return ": ".join(part for part in (kind, text) if part) + _place(error)


def _place(error: BaseException) -> str:
    """`` (file:line)`` of the last call in code that isn't installed, so in the user's own; empty if there is none."""
    installed = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    others = (str(Path(__file__).parent), "<", *installed)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(others)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def failure(kind: str | None, message: str | None) -> str:
    """An error's type and message in one line; the message alone where the type says no more than that it is ours.

    Example:
        >>> failure("ValueError", "bad"), failure("UserError", "keep: found no layer 'x'")
        ('ValueError: bad', "keep: found no layer 'x'")
    """
    text = one_line(message or "")
    return text if kind in OURS and text else f"{kind}: {text}"


def one_line(text: str) -> str:
    """`text` with every run of spaces and line breaks as one space."""
    return " ".join(text.split())


def brief(text: str) -> str:
    """`text` in one line of at most LONGEST characters, for lists in which the next line says something else.

    Example:
        >>> brief("found \\n [33/33] ok"), len(brief("x" * 5000))
        ('found [33/33] ok', 303)
    """
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """Message for an unknown name: what was found, the nearest known name, and all known names where they are few."""
    known = sorted(names)
    shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    found = f"unknown {kind} {shown!r}.{nearest(shown, known)}"
    if len(known) > LISTED:
        methods = ("method", "criterion", "trained selection", "regularizer", "token reducer")
        verb = "methods" if kind in methods else f"{kind}s"
        return f"{found} `raybench {verb}` lists all {len(known)}"
    return f"{found} Known: {', '.join(known)}"


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
        text = printable(str(message))
        if not handle(str(message), category, filename):
            previous(message if text == str(message) else text, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = previous
