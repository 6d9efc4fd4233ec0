"""Keys of result files below the storage root, and the facts encoded in their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

CELLS, ATTEMPTS = "results/cells", "results/attempts"

_CELL = re.compile(r"([0-9a-f]{16})(\.skipped)?\.parquet")
_ATTEMPT = re.compile(r"([0-9a-f]{16})-([1-9][0-9]*)\.parquet")
_PART = re.compile(r"part-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True)
class ResultFile:
    """One file of results: a cell, a failed attempt, or a part with many cells."""

    key: str
    kind: Literal["cell", "attempt", "part"]
    trial_id: str = ""  # empty for a part
    status: str = ""  # ok, failed or skipped; empty for a part
    attempt: int = 0  # from 1; 0 for cells and parts


def partition(dataset: str, model: str) -> str:
    """Folder of the cells of one dataset and model: a Hive partition, so values are percent-encoded."""
    return f"{CELLS}/dataset={quote(dataset, safe='')}/model={quote(model, safe='')}"


def cell_key(row: Any) -> str:
    """Key of a finished or skipped cell. The name holds the status, so that a plan opens no files."""
    suffix = ".skipped" if row["status"] == "skipped" else ""
    return f"{partition(row['dataset'], row['model'])}/{row['trial_id']}{suffix}.parquet"


def attempt_key(trial_id: str, attempt: int) -> str:
    """Key of the `attempt`-th failure of a cell."""
    return f"{ATTEMPTS}/{trial_id}-{attempt}.parquet"


def parse(key: str) -> ResultFile | None:
    """The result file that `key` names; None for a name that raybench does not write."""
    name = key.rpartition("/")[2]
    if key.startswith(f"{ATTEMPTS}/"):
        found = _ATTEMPT.fullmatch(name)
        return ResultFile(key, "attempt", found[1], "failed", int(found[2])) if found else None
    if found := _CELL.fullmatch(name):
        return ResultFile(key, "cell", found[1], "skipped" if found[2] else "ok")
    return ResultFile(key, "part") if _PART.fullmatch(name) else None


def last_attempts(attempts: Iterable[ResultFile], known: Iterable[str]) -> list[ResultFile]:
    """The last attempt of every trial, those in `known` left out, sorted by trial_id."""
    last = {f.trial_id: f for f in sorted(attempts, key=lambda f: (f.trial_id, f.attempt))}
    return [file for trial_id, file in last.items() if trial_id not in known]
