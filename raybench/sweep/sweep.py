"""The model of a sweep file: axes whose product is the grid of cells, cells to include and to exclude, settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from raybench import registry
from raybench.errors import nearest, unknown
from raybench.sweep.axes import (
    AttentionParts,
    Axis,
    DatasetAxis,
    Many,
    MethodAxis,
    ModelAxis,
    Patterns,
    Schedule,
    Seeds,
    Speedups,
    Strategies,
    StrictModel,
    as_tuple,
    distinct,
    mistake,
    named,
)
from raybench.sweep.bounds import MOST_CELLS, MOST_NAME, MOST_RATIO, MOST_ROUND, MOST_THREADS
from raybench.sweep.size import cells_of
from raybench.sweep.trial import Recipe

Models = Annotated[tuple[Annotated[ModelAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Datasets = Annotated[tuple[Annotated[DatasetAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Methods = Annotated[tuple[Annotated[MethodAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Names = Annotated[tuple[str, ...], Many, Field(min_length=1)]
Place = tuple[str | int, ...]  # path of keys and indices to a value of the sweep file

Protocol = Literal["raybench", "pruningbench"]
ENTRIES = ("models", "datasets", "methods")  # axes whose entries may override keys of the sweep

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Resources(StrictModel):
    """Resources of one cell. `gpus` may be a fraction; `memory` is in bytes, or text such as `2GiB`."""

    cpus: float = Field(default=1, gt=0, le=100_000, allow_inf_nan=False)
    gpus: float = Field(default=0, ge=0, allow_inf_nan=False)
    memory: int | None = Field(default=None, gt=0, le=2**60)

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


class Include(StrictModel):
    """Cells to add. Axes left out are the sweep's own."""

    models: Models | None = None
    datasets: Datasets | None = None
    methods: Methods | None = None
    strategies: Strategies | None = None
    speedups: Speedups | None = None
    seeds: Seeds | None = None


class Exclude(StrictModel):
    """Cells to take out: those that match every given axis."""

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


class Sweep(StrictModel):
    """One sweep. Its cells are the product of the axes, plus `include`, minus `exclude`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MOST_NAME, description="name of the sweep")
    models: Models
    datasets: Datasets
    methods: Methods = Field(description="importance, importance+regularizer, or a mapping with name and params")
    strategies: Strategies = ("protected-global",)
    speedups: Speedups = Field(description="base MACs / pruned MACs, each above 1")
    ratio: float | None = Field(
        default=None,
        gt=0,
        le=MOST_RATIO,
        description="in place of speedups: share of channels that one step removes",
    )
    seeds: Seeds = (0,)
    base_seeds: Literal["shared", "per-seed"] = "shared"
    recipe: Recipe = Field(description="a recipe's name or file, or {extends: NAME, finetune: {epochs: 3}}")
    recipes: Annotated[tuple[Recipe, ...], Many] = Field(
        default=(), description="several recipes: an axis in place of recipe"
    )
    protocol: Protocol = "raybench"
    protocols: Annotated[tuple[Protocol, ...], Many] = Field(
        default=(), description="several protocols: an axis in place of protocol"
    )
    schedule: Schedule = "auto"
    prune: AttentionParts | None = Field(default=None, description="which parts of attention models are pruned")
    keep: Patterns = Field(default=(), description="layers that keep their width, by name or glob: layer1.*.conv2")
    only: Patterns = Field(default=(), description="layers outside which nothing shrinks, by name or glob")
    round_to: int = Field(default=1, ge=1, le=MOST_ROUND, description="keep a multiple of this many channels")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="what cells compute on; auto: a GPU where resources ask for one"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=MOST_THREADS,
        description="threads of a cell on a CPU; default: its whole cpus",
    )
    resources: Resources = Resources()
    storage: str | None = Field(default=None, description="folder or bucket of the results; --storage overrides it")
    data_roots: dict[str, str] = Field(default={}, description="dataset name -> folder, resolved on the worker")
    include: Annotated[tuple[Include, ...], Many] = ()
    exclude: Annotated[tuple[Exclude, ...], Many] = ()

    @property
    def computing_device(self) -> Literal["cpu", "cuda"]:
        """What cells compute on, `auto` resolved."""
        if self.device != "auto":
            return self.device
        return "cuda" if self.resources.gpus else "cpu"

    @property
    def computing_threads(self) -> int:
        """Threads that a cell computes with on a CPU: as many as it may use, unless the sweep says otherwise."""
        return self.threads or max(1, int(self.resources.cpus))

    @model_validator(mode="before")
    @classmethod
    def _ratio_or_speedups(cls, fields: Any) -> Any:
        """Replace a ratio by the speed-up 1 / (1 - ratio), which is a label: the achieved speed-up differs."""
        ratio = fields.get("ratio") if isinstance(fields, dict) else None
        if not isinstance(ratio, float) or not 0 < ratio < 1:
            return fields
        if as_tuple(fields.get("speedups", 1 / (1 - ratio))) != (1 / (1 - ratio),):
            raise mistake("found speedups beside it, expected one of the two", "ratio")
        return {**fields, "speedups": [1 / (1 - ratio)]}

    @field_validator("data_roots")
    @classmethod
    def _of_datasets(cls, roots: dict[str, str]) -> dict[str, str]:
        for name in roots:
            if name not in registry.dataset.entries():
                raise mistake(unknown("dataset", name, registry.dataset.entries()), name)
        return roots

    def variants(self) -> Iterator[Sweep]:
        """The sweep with one recipe and one protocol, for each of the recipes and protocols."""
        for recipe, protocol in itertools.product(self.recipes or (self.recipe,), self.protocols or (self.protocol,)):
            one = {"recipe": recipe, "protocol": protocol, "recipes": (), "protocols": ()}
            yield self.model_copy(update=one) if self.recipes or self.protocols else self

    @field_validator("models", "datasets", "methods", "strategies", "speedups", "seeds", "recipes", "protocols")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return distinct(values)

    @model_validator(mode="after")
    def _no_schedule_with_pruningbench(self) -> Sweep:
        """Refuse a schedule with the published protocol, which always takes its own 400 steps."""
        if "pruningbench" in (*self.protocols, self.protocol):
            self._check_schedules(("auto", "progressive"), "expected none: protocol pruningbench has its own 400 steps")
        return self

    @model_validator(mode="after")
    def _ratio_alone(self) -> Sweep:
        """Refuse speed-ups, schedules of many steps and the published protocol beside a ratio, which is one step."""
        if self.ratio is None:
            return self
        if "pruningbench" in (*self.protocols, self.protocol):
            raise mistake("found a ratio, expected speedups: protocol pruningbench prunes to a speed-up", "ratio")
        self._check_schedules(("auto", "one-shot"), "expected one-shot or none: a ratio is one step")
        included: list[tuple[Place, Axis | Include]] = [(("include", i), one) for i, one in enumerate(self.include)]
        for place, holder in (*self._entries(), *included):
            if holder.speedups is not None:
                raise mistake("found speedups, expected none: the sweep has a ratio", *place, "speedups")
        return self

    def _check_schedules(self, allowed: tuple[str, ...], expected: str) -> None:
        """Raise a mistake where the sweep or an entry sets a schedule that is not `allowed`."""
        sweep: tuple[Place, Axis | Sweep] = ((), self)
        for place, holder in (sweep, *self._entries()):
            if holder.schedule not in (None, *allowed):
                raise mistake(f"found {holder.schedule!r}, {expected}", *place, "schedule")

    def _entries(self) -> Iterator[tuple[Place, Axis]]:
        """Every entry that may override keys of the sweep, with the path to it."""
        holders: list[tuple[Place, Sweep | Include]] = [((), self)]
        holders += [(("include", i), one) for i, one in enumerate(self.include)]
        for (place, holder), axis in itertools.product(holders, ENTRIES):
            for i, entry in enumerate(getattr(holder, axis) or ()):
                yield (*place, axis, i), entry

    @model_validator(mode="after")
    def _recipes_can_work(self) -> Sweep:
        """Refuse stages whose settings contradict each other."""
        own: list[tuple[Place, Recipe | None]] = [(("recipes", i), one) for i, one in enumerate(self.recipes)]
        own = own or [(("recipe",), self.recipe)]
        others = [((*place, "recipe"), entry.recipe) for place, entry in self._entries()]
        found: list[tuple[Place, Recipe | None]] = [*own, *others]
        for place, recipe in found:
            for stage in ("base", "sparsify", "finetune") if recipe else ():
                for key, message in getattr(recipe, stage).contradictions():
                    raise mistake(message, *place, stage, key)
            for key, message in recipe.speed.impossible(self.computing_device) if recipe else ():
                raise mistake(message, *place, "speed", key)
        return self

    @model_validator(mode="after")
    def _not_too_large(self) -> Sweep:
        """Refuse a grid that no machine could even list."""
        count = cells_of(self)
        if count > MOST_CELLS:
            raise mistake(
                f"found axes whose product is {count:,} cells, expected at most {MOST_CELLS:,}: split the sweep"
            )
        return self

    @model_validator(mode="after")
    def _exclude_names_cells(self) -> Sweep:
        """Refuse an exclusion that names a value which no cell has."""
        for place, one in enumerate(self.exclude):
            for axis in Exclude.model_fields:
                known = self.values(axis)
                for value in getattr(one, axis) or ():
                    if value not in known:
                        near = nearest(str(value), map(str, known)) if isinstance(value, str) else ""
                        expected = f"expected one of this sweep's {axis}: {', '.join(map(str, known))}.{near}"
                        raise mistake(f"found {value!r}, {expected}", "exclude", place, axis)
        return self

    def values(self, axis: str) -> list[Any]:
        """All values of `axis` anywhere in the sweep; for entries their names."""
        entries: list[Axis] = [*self.models, *self.datasets, *self.methods]
        for one in self.include:
            entries += [*(one.models or ()), *(one.datasets or ()), *(one.methods or ())]
        found: dict[Any, None] = {}  # each once, in order
        for source in (self, *self.include, *entries):
            found |= dict.fromkeys(getattr(value, "name", value) for value in getattr(source, axis, None) or ())
        return list(found)
