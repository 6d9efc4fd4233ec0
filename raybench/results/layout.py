"""Where results lie below the storage root, and what a file's name tells without opening it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

CELLS, ATTEMPTS = "results/cells", "results/attempts"

_CELL = re.compile(r"([0-9a-f]{16})(\.skipped)?\.parquet")
_ATTEMPT = re.compile(r"([0-9a-f]{16})-([1-9][0-9]*)\.parquet")
_PART = re.compile(r"part-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True)
class ResultFile:
    """One file of results: a cell, a failed attempt, or a part that holds many cells (`trial_id` is None)."""

    key: str
    kind: Literal["cell", "attempt", "part"]
    trial_id: str | None = None
    status: str | None = None
    attempt: int = 0


def partition(dataset: str, model: str) -> str:
    """Folder of the cells of one dataset and model; values are percent-encoded, as Hive readers expect."""
    return f"{CELLS}/dataset={quote(dataset, safe='')}/model={quote(model, safe='')}"


def cell_key(row: Any) -> str:
    """Key of a finished or skipped cell. A skipped one says so in its name: a plan opens no files."""
    suffix = ".skipped" if row["status"] == "skipped" else ""
    return f"{partition(row['dataset'], row['model'])}/{row['trial_id']}{suffix}.parquet"


def attempt_key(trial_id: str, attempt: int) -> str:
    """Key of the `attempt`-th failure of a cell."""
    return f"{ATTEMPTS}/{trial_id}-{attempt}.parquet"


def parse(key: str) -> ResultFile | None:
    """What `key` is, None for a name that raybench does not write."""
    name = key.rpartition("/")[2]
    if key.startswith(f"{ATTEMPTS}/"):
        found = _ATTEMPT.fullmatch(name)
        return ResultFile(key, "attempt", found[1], "failed", int(found[2])) if found else None
    if found := _CELL.fullmatch(name):
        return ResultFile(key, "cell", found[1], "skipped" if found[2] else "ok")
    return ResultFile(key, "part") if _PART.fullmatch(name) else None
