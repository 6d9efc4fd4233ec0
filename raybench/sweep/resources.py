"""The block `resources` of a sweep: what one cell asks for, and how long each of its stages may take."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from raybench.errors import nearest
from raybench.sweep.axes import StrictModel, mistake
from raybench.sweep.durations import EXPECTED, seconds_of

STAGES = ("base", "sparsify", "select", "surgery", "finetune", "measure", "publish")  # as the journal names them
AUTO = "auto"
MOST_TIMEOUT = 3e7  # seconds, about a year
MOST_PROCESSES = 1024  # of one cell
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


class Measured(float):
    """`gpus: auto`: a whole GPU until it is measured how many cells share one."""


def _number_or_auto(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if not isinstance(value, str):
        return handler(value)
    if value != AUTO:
        raise mistake(f"found {value!r}, expected a number or {AUTO}.{nearest(value, (AUTO,))}".removesuffix("."))
    return Measured(1)


def _whole_above_one(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise mistake(
            f"found {gpus:g}, expected 0 to 1 or a whole number: a cell takes a share of one GPU or whole ones"
        )
    return gpus


def _bytes(memory: Any) -> Any:
    if not isinstance(memory, str):
        return memory
    match = re.fullmatch(r"([0-9.]+)\s*([KMG]i?B|B)?", memory, re.IGNORECASE)
    try:
        return int(float(match[1]) * _UNITS[(match[2] or "").upper()])  # type: ignore[index]
    except (TypeError, ValueError):
        raise mistake(f"found {memory!r}, expected bytes or a size such as 512MiB or 2GiB") from None


def _word(value: Any) -> Any:
    """YAML reads the words `on` and `off` as booleans."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


_GPUS_SCHEMA = {"anyOf": [{"minimum": 0, "type": "number"}, {"const": AUTO, "type": "string"}]}
Cpus = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Gpus = Annotated[
    float,
    Field(ge=0, le=MOST_PROCESSES, allow_inf_nan=False),
    AfterValidator(_whole_above_one),
    WrapValidator(_number_or_auto),
    WithJsonSchema(_GPUS_SCHEMA),
]
Memory = Annotated[int, Field(gt=0, le=2**60), BeforeValidator(_bytes)]
Processes = Annotated[int, Field(ge=1, le=MOST_PROCESSES)]
Mps = Annotated[Literal["off", "on", "auto"], BeforeValidator(_word)]
Timeout = Annotated[dict[str, float], BeforeValidator(_of_each_stage)]


class ModelResources(StrictModel):
    """What cells of some models ask for in place of the sweep's own; keys that are left out are the sweep's."""

    cpus: Cpus | None = None
    gpus: Gpus | None = None
    memory: Memory | None = None
    processes: Processes | None = None
    timeout: Timeout | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ModelResources:
        if not self.model_fields_set:
            raise mistake(f"found no key, expected at least one of {', '.join(ModelResources.model_fields)}")
        return self


class Resources(StrictModel):
    """Resources of one cell. `gpus` may be a fraction, or `auto`; `memory` is in bytes, or text such as `2GiB`.

    With several GPUs, or `processes` on a CPU, so many processes train a cell together; each has an equal part.
    """

    cpus: Cpus = 1
    gpus: Gpus = Field(default=0, description="a number, a fraction, or auto: how many cells share a GPU is measured")
    memory: Memory | None = None
    processes: Processes | None = Field(
        default=None, description="processes that train one cell together; default: one a GPU, one on a CPU"
    )
    mps: Mps = Field(default="off", description="NVIDIA MPS for cells that share a GPU; auto: where it can be used")
    timeout: Timeout = Field(
        default={}, description="how long a stage may take before it fails: 2h, or {base: 8h, finetune: 2h}"
    )
    models: dict[str, ModelResources] = Field(
        default={}, description="name or glob of a model -> what its cells ask for: {resnet50: {gpus: 0.5}}"
    )

    @property
    def team(self) -> int:
        """How many processes train one cell together."""
        return self.processes or max(1, int(self.gpus))

    @model_validator(mode="after")
    def _shares_what_mps_is_for(self) -> Resources:
        asked = [self.gpus, *(one.gpus for one in self.models.values())]
        if self.mps != "off" and not any(isinstance(gpus, Measured) or 0 < (gpus or 0) < 1 for gpus in asked):
            wanted = "expected a share of a GPU for some cells, such as gpus: 0.5, or gpus: auto"
            raise mistake(f"found {self.mps} beside gpus: {self.gpus:g}, {wanted}", "mps")
        return self

    @model_validator(mode="after")
    def _one_process_a_gpu(self) -> Resources:
        places: dict[str, tuple[str, ...]] = {"": ()} | {name: ("models", name) for name in self.models}
        for name, place in places.items():
            own = self.of(name) if name else self
            expected = max(1, int(own.gpus))
            if own.processes and own.gpus and own.processes != expected:
                beside = AUTO if isinstance(own.gpus, Measured) else f"{own.gpus:g}"
                wanted = f"expected {expected} or none: each process has one GPU"
                raise mistake(f"found {own.processes} beside gpus: {beside}, {wanted}", *place, "processes")
        return self

    def of(self, model: str) -> Resources:
        """What a cell of `model` asks for: its own name counts before globs, of several globs the first that fits.

        Example:
            >>> resources = Resources(cpus=1, models={"*50": {"cpus": 4}, "resnet50": {"gpus": 0.5}})
            >>> [(one.cpus, one.gpus) for one in map(resources.of, ("resnet50", "wide50", "resnet18"))]
            [(1.0, 0.5), (4.0, 0.0), (1.0, 0.0)]
        """
        fits = (one for pattern, one in self.models.items() if fnmatchcase(model, pattern))
        own = self.models.get(model) or next(fits, ModelResources.model_construct())
        said = {key: value for key in type(own).model_fields if (value := getattr(own, key)) is not None}
        return self.model_copy(update=said | {"models": {}, "timeout": self.timeout | (own.timeout or {})})

    def without_auto(self) -> Resources:
        """The same with a whole GPU in place of `auto`: for a run that never shares one."""

        def whole(gpus: float | None) -> float | None:
            return 1.0 if isinstance(gpus, Measured) else gpus

        models = {name: one.model_copy(update={"gpus": whole(one.gpus)}) for name, one in self.models.items()}
        return self.model_copy(update={"gpus": whole(self.gpus), "models": models})
