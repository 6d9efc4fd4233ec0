"""The block `resources` of a sweep: what one cell asks for, and how long each of its stages may take."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from raybench.errors import nearest
from raybench.sweep.axes import StrictModel, mistake
from raybench.sweep.durations import EXPECTED, seconds_of

STAGES = ("base", "sparsify", "select", "surgery", "finetune", "measure", "publish")  # as the journal names them
MOST_TIMEOUT = 3e7  # seconds, about a year
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _of_each_stage(value: Any) -> Any:
    """One duration for every stage, or a mapping of stages, as seconds of each stage."""
    if not isinstance(value, dict):
        return dict.fromkeys(STAGES, _seconds(value))
    for stage in value:
        if stage not in STAGES:
            known = f"Known: {', '.join(STAGES)}"
            raise mistake(f"unknown stage.{nearest(str(stage), STAGES)} {known}", stage)
    return {stage: _seconds(found, stage) for stage, found in value.items()}


def _seconds(value: Any, *at: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    found = float(value) if number else seconds_of(value) if isinstance(value, str) else None
    if found is None or not 0 < found <= MOST_TIMEOUT:
        raise mistake(f"found {value!r}, expected {EXPECTED}, of at most a year", *at)
    return found


class Resources(StrictModel):
    """Resources of one cell. `gpus` may be a fraction; `memory` is in bytes, or text such as `2GiB`."""

    cpus: float = Field(default=1, gt=0, le=100_000, allow_inf_nan=False)
    gpus: float = Field(default=0, ge=0, allow_inf_nan=False)
    memory: int | None = Field(default=None, gt=0, le=2**60)
    timeout: Annotated[dict[str, float], BeforeValidator(_of_each_stage)] = Field(
        default={}, description="how long a stage may take before it fails: 2h, or {base: 8h, finetune: 2h}"
    )

    @field_validator("gpus")
    @classmethod
    def _one_device(cls, gpus: float) -> float:
        if gpus > 1:
            raise mistake(f"found {gpus:g}, expected 0 to 1: a cell runs on one device at most")
        return gpus

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, memory: Any) -> Any:
        if not isinstance(memory, str):
            return memory
        match = re.fullmatch(r"([0-9.]+)\s*([KMG]i?B|B)?", memory, re.IGNORECASE)
        try:
            return int(float(match[1]) * _UNITS[(match[2] or "").upper()])  # type: ignore[index]
        except (TypeError, ValueError):
            raise mistake(f"found {memory!r}, expected bytes or a size such as 512MiB or 2GiB") from None
