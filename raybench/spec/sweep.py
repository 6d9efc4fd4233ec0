"""What a sweep says: axes whose product is the grid of cells, what to add to it and to take out of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from raybench import registry
from raybench.errors import nearest, unknown
from raybench.spec.axes import (
    Axis,
    DatasetAxis,
    Many,
    MethodAxis,
    ModelAxis,
    Parts,
    Schedule,
    Seeds,
    Spec,
    Speedups,
    Strategies,
    as_tuple,
    distinct,
    mistake,
    named,
)
from raybench.spec.trial import Recipe

Models = Annotated[tuple[Annotated[ModelAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Datasets = Annotated[tuple[Annotated[DatasetAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Methods = Annotated[tuple[Annotated[MethodAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Names = Annotated[tuple[str, ...], Many, Field(min_length=1)]

ENTRIES = ("models", "datasets", "methods")  # axes whose entries may override what the sweep says

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Resources(Spec):
    """What one cell may use. `gpus` may be a fraction; `memory` is in bytes, or written `2GiB`."""

    cpus: float = Field(1, gt=0, allow_inf_nan=False)
    gpus: float = Field(0, ge=0, allow_inf_nan=False)
    memory: int | None = Field(None, gt=0)

    @field_validator("gpus")
    @classmethod
    def _one_device(cls, gpus: float) -> float:
        if gpus > 1:
            raise mistake(f"found {gpus:g}, which is not built yet: one device per cell; expected 0 to 1")
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


class Include(Spec):
    """Cells to add: the axes that it does not name are the sweep's own."""

    models: Models | None = None
    datasets: Datasets | None = None
    methods: Methods | None = None
    strategies: Strategies | None = None
    speedups: Speedups | None = None
    seeds: Seeds | None = None


class Exclude(Spec):
    """Cells to take out: those that match every axis that it names."""

    models: Names | None = None
    datasets: Names | None = None
    methods: Names | None = None
    strategies: Strategies | None = None
    speedups: Speedups | None = None
    seeds: Seeds | None = None

    @model_validator(mode="after")
    def _selective(self) -> Exclude:
        if not self.model_fields_set:
            raise mistake("found no axis, expected at least one: this would exclude every cell")
        return self


class Sweep(Spec):
    """One sweep. Its cells are the product of the axes, plus `include`, minus `exclude`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="what the sweep is called")
    models: Models
    datasets: Datasets
    methods: Methods = Field(description="importance, importance+regularizer, or a mapping with name and params")
    strategies: Strategies = ("protected-global",)
    speedups: Speedups = Field(description="base MACs / pruned MACs, each above 1")
    ratio: float | None = Field(
        None, gt=0, lt=1, description="in place of speedups: the share of channels that one step removes"
    )
    seeds: Seeds = (0,)
    base_seeds: Literal["shared", "per-seed"] = "shared"
    recipe: Recipe = Field(description="a recipe's name or file, or {extends: NAME, finetune: {epochs: 3}}")
    protocol: Literal["raybench", "pruningbench"] = "raybench"
    schedule: Schedule = "auto"
    prune: Parts | None = Field(None, description="which parts of attention models are pruned")
    round_to: int = Field(1, ge=1, description="keep a multiple of this many channels")
    resources: Resources = Resources()
    storage: str | None = Field(None, description="where results go, unless --storage says otherwise")
    data_roots: dict[str, str] = Field({}, description="dataset name -> folder, resolved on the worker")
    include: Annotated[tuple[Include, ...], Many] = ()
    exclude: Annotated[tuple[Exclude, ...], Many] = ()

    @model_validator(mode="before")
    @classmethod
    def _ratio_or_speedups(cls, told: Any) -> Any:
        """A ratio's place on the axis of speed-ups is 1 / (1 - ratio): a name for it, not what it will come to."""
        ratio = told.get("ratio") if isinstance(told, dict) else None
        if not isinstance(ratio, float) or not 0 < ratio < 1:
            return told
        if as_tuple(told.get("speedups", 1 / (1 - ratio))) != (1 / (1 - ratio),):
            raise mistake("found speedups beside it, expected one of the two", "ratio")
        return {**told, "speedups": [1 / (1 - ratio)]}

    @field_validator("data_roots")
    @classmethod
    def _of_datasets(cls, roots: dict[str, str]) -> dict[str, str]:
        for name in roots:
            if name not in registry.dataset.entries():
                raise mistake(unknown("dataset", name, registry.dataset.entries()), name)
        return roots

    @field_validator("models", "datasets", "methods", "strategies", "speedups", "seeds")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return distinct(values)

    @model_validator(mode="after")
    def _one_walk(self) -> Sweep:
        """The published protocol is one walk of 400 steps; a schedule would say what does not happen."""
        if self.protocol == "pruningbench":
            self._schedules_are(("auto", "progressive"), "expected none: protocol pruningbench walks its own 400 steps")
        return self

    @model_validator(mode="after")
    def _one_ratio(self) -> Sweep:
        """A ratio is one step of ours: no entry can ask for speed-ups, for a walk, or for the published protocol."""
        if self.ratio is None:
            return self
        if self.protocol == "pruningbench":
            raise mistake("found a ratio, expected speedups: protocol pruningbench walks to a speed-up", "ratio")
        self._schedules_are(("auto", "one-shot"), "expected one-shot or none: a ratio is one step")
        for place, holder in (*self._entries(), *((("include", i), one) for i, one in enumerate(self.include))):
            if holder.speedups is not None:
                raise mistake("found speedups, expected none: the sweep has a ratio", *place, "speedups")
        return self

    def _schedules_are(self, allowed: tuple[str, ...], told: str) -> None:
        for place, holder in (((), self), *self._entries()):
            if holder.schedule not in (None, *allowed):
                raise mistake(f"found {holder.schedule!r}, {told}", *place, "schedule")

    def _entries(self) -> Iterator[tuple[tuple[str | int, ...], Axis]]:
        """Every entry that may override what the sweep says, with the path to it."""
        holders = (((), self), *((("include", i), one) for i, one in enumerate(self.include)))
        for (place, holder), axis in itertools.product(holders, ENTRIES):
            for i, entry in enumerate(getattr(holder, axis) or ()):
                yield (*place, axis, i), entry

    @model_validator(mode="after")
    def _exclude_names_cells(self) -> Sweep:
        for place, one in enumerate(self.exclude):
            for axis in Exclude.model_fields:
                known = self.values(axis)
                for value in getattr(one, axis) or ():
                    if value not in known:
                        names = ", ".join(f"{name}" for name in known)
                        near = nearest(str(value), map(str, known)) if isinstance(value, str) else ""
                        raise mistake(
                            f"found {value!r}, expected one of this sweep's {axis}: {names}.{near}",
                            "exclude",
                            place,
                            axis,
                        )
        return self

    def values(self, axis: str) -> list[Any]:
        """Every value that `axis` takes somewhere in the sweep, names for entries."""
        entries: list[Axis] = [*self.models, *self.datasets, *self.methods]
        for one in self.include:
            entries += [*(one.models or ()), *(one.datasets or ()), *(one.methods or ())]
        found: list[Any] = []
        for source in (self, *self.include, *entries):
            for value in getattr(source, axis, None) or ():
                name = getattr(value, "name", value)
                if name not in found:
                    found.append(name)
        return found
