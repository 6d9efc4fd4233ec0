"""What running one unit came to, as the driver sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "failed", "skipped", "busy"]


@dataclass(frozen=True)
class Outcome:
    """The end of one unit. A failed or skipped cell already has its row; `busy` means another driver holds it."""

    key: str
    kind: str
    status: Status
    stage: str = ""  # the stage that was running at the end
    error_type: str = ""
    error_message: str = ""  # for "skipped": the reason
    traceback_path: str = ""  # key in the storage, empty without one
    seconds: float = 0.0
    summary: Mapping[str, float] = field(default_factory=dict)  # a few figures for the progress panel
