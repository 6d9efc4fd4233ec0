"""Keys of result files below the storage root, and the facts encoded in their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

CELLS, ATTEMPTS = "results/cells", "results/attempts"

TRIAL_ID = "[0-9a-f]{16}"
_CELL = re.compile(rf"({TRIAL_ID})(\.skipped)?\.parquet")
_ATTEMPT = re.compile(rf"({TRIAL_ID})-([1-9][0-9]*)\.parquet")
_PART = re.compile(r"part-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True)
class ResultFile:
    """One file of results: a cell, a failed attempt, or a part with many cells.

    Attributes:
        key: its key in the storage.
        kind: cell, attempt or part.
        trial_id: trial of its row; empty for a part.
        status: ok, failed or skipped; empty for a part.
        attempt: number of a failed attempt, from 1; 0 for cells and parts.

    Example:
        >>> parse("results/attempts/0123456789abcdef-2.parquet").attempt
        2
    """

    key: str
    kind: Literal["cell", "attempt", "part"]
    trial_id: str = ""
    status: str = ""
    attempt: int = 0


def partition(dataset: str, model: str) -> str:
    """Folder of the cells of one dataset and model: a Hive partition, so values are percent-encoded.

    Args:
        dataset: name of the dataset.
        model: name of the model.

    Returns:
        A prefix of keys, without a slash at its end.

    Example:
        >>> partition("digits", "mynet:net")
        'results/cells/dataset=digits/model=mynet%3Anet'
    """
    return f"{CELLS}/dataset={quote(dataset, safe='')}/model={quote(model, safe='')}"


def cell_key(row: Any) -> str:
    """Key of a finished or skipped cell. The name holds the status, so that a plan opens no files.

    Args:
        row: a record, or a mapping with `dataset`, `model`, `trial_id` and `status`.

    Returns:
        The key.

    Example:
        >>> cell_key({"dataset": "digits", "model": "my-net", "trial_id": "0123456789abcdef", "status": "skipped"})
        'results/cells/dataset=digits/model=my-net/0123456789abcdef.skipped.parquet'
    """
    suffix = ".skipped" if row["status"] == "skipped" else ""
    return f"{partition(row['dataset'], row['model'])}/{row['trial_id']}{suffix}.parquet"


def attempt_key(trial_id: str, attempt: int) -> str:
    """Key of a failed attempt of a cell.

    Args:
        trial_id: trial that failed.
        attempt: number of the failure, from 1.

    Returns:
        The key.

    Example:
        >>> attempt_key("0123456789abcdef", 2)
        'results/attempts/0123456789abcdef-2.parquet'
    """
    return f"{ATTEMPTS}/{trial_id}-{attempt}.parquet"


def parse(key: str) -> ResultFile | None:
    """The result file that a key names.

    Args:
        key: a key below `CELLS` or `ATTEMPTS`.

    Returns:
        What the name says; None for a name that raybench does not write.

    Example:
        >>> parse("results/cells/dataset=digits/model=my-net/0123456789abcdef.parquet").status
        'ok'
        >>> parse("results/cells/notes.txt") is None
        True
    """
    name = key.rpartition("/")[2]
    if key.startswith(f"{ATTEMPTS}/"):
        found = _ATTEMPT.fullmatch(name)
        return ResultFile(key, "attempt", found[1], "failed", int(found[2])) if found else None
    if found := _CELL.fullmatch(name):
        return ResultFile(key, "cell", found[1], "skipped" if found[2] else "ok")
    return ResultFile(key, "part") if _PART.fullmatch(name) else None


def last_attempts(attempts: Iterable[ResultFile], known: Iterable[str]) -> list[ResultFile]:
    """The last attempt of every trial.

    Args:
        attempts: failed attempts, in any order.
        known: trial_ids to leave out.

    Returns:
        One file for each other trial, sorted by trial_id.

    Example:
        >>> both = [parse(attempt_key("0123456789abcdef", number)) for number in (2, 1)]
        >>> [file.attempt for file in last_attempts(both, known=[])]
        [2]
    """
    last = {f.trial_id: f for f in sorted(attempts, key=lambda f: (f.trial_id, f.attempt))}
    return [file for trial_id, file in last.items() if trial_id not in known]
