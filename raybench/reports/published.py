"""PruningBench's published results: 339 rows of its README at commit 4c4d299 (2024-06-28), errors included.

Each is one run with protected global pruning (every group keeps 10 % of its channels) and one fine-tuning. `starred` is
the README's mark for "needs data", which is unreliable: Random always has it, Taylor in 7 of its 21 rows. `anomaly`
names contradictions within the README. Accuracy in percent, parameters in millions and percent, times in seconds.
"""

from __future__ import annotations

import csv
import io
from functools import cache
from importlib.resources import files
from typing import Any

SOURCE = "PruningBench README, commit 4c4d299 (2024-06-28); paper arXiv 2406.12315"
STRATEGY, PROTOCOL = "protected-global", "pruningbench"
_TEXT = ("dataset", "model", "task", "importance", "regularizer", "metric_name", "anomaly")
_COUNTS = ("rank", "readme_line")


@cache
def published() -> tuple[dict[str, Any], ...]:
    """Every published row, with our names of models and methods; `regularizer`, `anomaly` and times may be None."""
    text = (files("raybench.reports") / "published.csv").read_text(encoding="utf-8")
    return tuple(_row(line) for line in csv.DictReader(io.StringIO(text)))


def _row(line: dict[str, str]) -> dict[str, Any]:
    row = {name: _value(name, text) for name, text in line.items()}
    method = "+".join(filter(None, (row["importance"], row["regularizer"])))
    return {"method": method, "strategy": STRATEGY, "protocol": PROTOCOL, **row}


def _value(name: str, text: str) -> Any:
    if text == "":
        return None
    if name in _TEXT:
        return text
    return text == "true" if name == "starred" else int(text) if name in _COUNTS else float(text)
