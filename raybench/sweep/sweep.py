"""The model of a sweep file: axes whose product is the grid of cells, cells to include and to exclude, settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raybench import registry
from raybench.errors import nearest, unknown
from raybench.sweep.axes import (
    NO_SPEEDUPS,
    AttentionParts,
    Axis,
    Many,
    ModelAxis,
    Patterns,
    Place,
    Schedule,
    Seeds,
    SomeSpeedups,
    Strategies,
    StrictModel,
    Targets,
    distinct,
    mistake,
    refuse,
)
from raybench.sweep.bounds import MOST_CELLS, MOST_NAME, MOST_RATIO, MOST_ROUND, MOST_THREADS
from raybench.sweep.inclusion import (
    AXES,
    VARYING,
    Datasets,
    Depths,
    Exclude,
    ImageSizes,
    Include,
    Methods,
    Models,
    Protocol,
    Protocols,
    Recipes,
    Transfers,
    values_of,
)
from raybench.sweep.kinds import KNAPSACKS, WHOLE
from raybench.sweep.recipe import Recipe
from raybench.sweep.resources import Measured, Resources
from raybench.sweep.size import cells_of
from raybench.sweep.source import Source
from raybench.sweep.weights import NONE, Transfer

_OF_MODELS: Place = ("resources", "models")
ENTRIES = ("models", "datasets", "methods")  # axes whose entries may override keys of the sweep


class Sweep(StrictModel):
    """One sweep. Its cells are the product of the axes, plus `include`, minus `exclude`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MOST_NAME, description="name of the sweep")
    models: Models
    datasets: Datasets
    methods: Methods = Field(description="importance, importance+regularizer, or a mapping with name and params")
    strategies: Strategies = ("protected-global",)
    speedups: SomeSpeedups = Field(description="base MACs / pruned MACs, each above 1")
    targets: Targets | None = Field(default=None, description="amounts of other costs, beside or in place of speedups")
    ratio: float | None = Field(
        default=None,
        gt=0,
        le=MOST_RATIO,
        description="in place of speedups: share of channels that one step removes",
    )
    seeds: Seeds = (0,)
    base_seeds: Literal["shared", "per-seed"] = "shared"
    recipe: Recipe = Field(description="a recipe's name or file, or {extends: NAME, finetune: {epochs: 3}}")
    recipes: Recipes = Field(default=(), description="several recipes: an axis in place of recipe")
    protocol: Protocol = "raybench"
    protocols: Protocols = Field(default=(), description="several protocols: an axis in place of protocol")
    base: Source | None = Field(default=None, description="{from: ...}: start from weights of other data")
    transfer: Transfers = Field(
        default=(), description="an axis: none, prune-then-transfer, transfer-then-prune (default with a base)"
    )
    depths: Depths = Field(default=(WHOLE,), description="an axis: share of the removable blocks that stays; 1: all")
    image_sizes: ImageSizes = Field(
        default=(), description="an axis: side of the images from the selection on; default: the dataset's own"
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

    def device_of(self, model: str) -> Literal["cpu", "cuda"]:
        """What cells of `model` compute on, `auto` resolved."""
        if self.device != "auto":
            return self.device
        return "cuda" if self.resources.of(model).gpus else "cpu"

    def threads_of(self, model: str) -> int:
        """Threads of each process of a cell of `model` on a CPU: as many as it may use, unless the sweep says it."""
        asked = self.resources.of(model)
        return self.threads or max(1, int(asked.cpus / asked.team))

    @property
    def devices(self) -> tuple[Literal["cpu", "cuda"], ...]:
        """All that cells compute on."""
        return tuple(sorted({self.device_of(model) for model in self.values("models")}))

    @model_validator(mode="before")
    @classmethod
    def _ratio_or_speedups(cls, fields: Any) -> Any:
        """Replace a ratio by the speed-up 1 / (1 - ratio), which is a label: the achieved speed-up differs."""
        ratio = fields.get("ratio") if isinstance(fields, dict) else None
        if not isinstance(ratio, float) or not 0 < ratio < 1:
            others = isinstance(fields, dict) and fields.get("targets") is not None
            return {**fields, "speedups": fields.get("speedups") or NO_SPEEDUPS} if others else fields
        return {"speedups": [1 / (1 - ratio)], **fields}

    @field_validator("data_roots")
    @classmethod
    def _of_datasets(cls, roots: dict[str, str]) -> dict[str, str]:
        known = registry.dataset.entries()
        refuse((unknown("dataset", name, known), (name,)) for name in roots if name not in known)
        return roots

    def variants(self, extra: Include | None = None) -> Iterator[Sweep]:
        """The sweep with one recipe, protocol, transfer, depth and image size, for each of them.

        Those axes of VARYING that `extra` has replace the sweep's.
        """
        lists = [(extra and getattr(extra, axis)) or self.listed(axis) for axis in VARYING]
        several = any((self.recipes, self.protocols, self.base, extra)) or max(map(len, lists)) > 1
        for recipe, protocol, transfer, depth, size in itertools.product(*(values or (None,) for values in lists)):
            one: dict[str, Any] = {
                "recipe": recipe,
                "protocol": protocol,
                "recipes": (),
                "protocols": (),
                "transfer": (transfer,),
            }
            one |= {"depths": (depth,), "image_sizes": () if size is None else (size,)}
            yield self.model_copy(update=one) if several else self

    def listed(self, axis: str) -> tuple[Any, ...]:
        """The sweep's own values of `axis`, with those that it has without saying so."""
        unsaid: dict[str, tuple[Any, ...]] = {"recipes": (self.recipe,), "protocols": (self.protocol,)}
        return self.transfers if axis == "transfer" else getattr(self, axis) or unsaid.get(axis, ())

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """The values of the axis `transfer`, its default filled in."""
        return self.transfer or (("transfer-then-prune",) if self.base else (NONE,))

    @field_validator(
        *ENTRIES, "strategies", "speedups", "seeds", "recipes", "protocols", "transfer", "depths", "image_sizes"
    )
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return distinct(values)

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        """Refuse keys that contradict each other, all at once, and a grid that no machine could even list."""
        about_targets = (*self._beside_ratio(), *self._other_targets(), *self._unranked(), *self._no_source())
        refuse((*self._wrong_schedules(), *about_targets, *self._impossible_recipes(), *self._idle_exclusions()))
        refuse(self._idle_resources())
        if (count := cells_of(self)) > MOST_CELLS:
            raise mistake(
                f"found axes whose product is {count:,} cells, expected at most {MOST_CELLS:,}: split the sweep"
            )
        return self

    def _wrong_schedules(self) -> Iterator[tuple[str, Place]]:
        """Schedules beside the published protocol, which has its own steps, or beside a ratio, which is one step."""
        if self._published:
            allowed, expected = ("auto", "progressive"), "expected none: protocol pruningbench has its own 400 steps"
        elif self.ratio is not None:
            allowed, expected = ("auto", "one-shot"), "expected one-shot or none: a ratio is one step"
        else:
            return
        sweep: tuple[Place, Axis | Sweep] = ((), self)
        for place, holder in (sweep, *self._entries()):
            if holder.schedule not in (None, *allowed):
                yield f"found {holder.schedule!r}, {expected}", (*place, "schedule")

    def _beside_ratio(self) -> Iterator[tuple[str, Place]]:
        """Speed-ups and the published protocol beside a ratio."""
        if self.ratio is None:
            return
        if self.speedups != (1 / (1 - self.ratio),):
            yield "found speedups beside it, expected one of the two", ("ratio",)
        if self._published:
            yield "found a ratio, expected speedups: protocol pruningbench prunes to a speed-up", ("ratio",)
        for place, holder in itertools.islice(self._holders(), 1, None):  # without the sweep itself
            if holder.speedups is not None:
                yield "found speedups, expected none: the sweep has a ratio", (*place, "speedups")

    def _other_targets(self) -> Iterator[tuple[str, Place]]:
        """Targets other than MACs beside the published protocol, which prunes to a speed-up, or beside a ratio."""
        if not self._published and self.ratio is None:
            return
        why = "protocol pruningbench prunes to speedups" if self._published else "the sweep has a ratio"
        for place, holder in self._holders():
            if holder.targets is not None:
                yield f"found targets, expected none: {why}", (*place, "targets")

    def _no_source(self) -> Iterator[tuple[str, Place]]:
        """A transfer without weights to start from, and the other way round; both beside what can't have them."""
        own: list[tuple[Place, Sweep | Include]] = [
            ((), self),
            *((("include", i), one) for i, one in enumerate(self.include)),
        ]
        for place, holder in own if not self.base else ():
            if holder.transfer and set(holder.transfer) != {NONE}:
                found = f"found {holder.transfer[-1]}, expected a source: base: {{from: DATASET or FILE}}"
                yield found, (*place, "transfer")
        if self.base and set(self.transfers) == {NONE}:
            yield "found a source, expected a transfer other than none, or no base", ("base",)
        if self.base and self._published:
            yield "found a source, expected none: protocol pruningbench starts from the dataset's own base", ("base",)
        elif self.base and set(self.transfers) != {NONE}:
            spared = {name for one in self.exclude for name in one.datasets or ()}  # resolve() knows of which cells
            misfits = (self.base.misfit(one.name) for one in self.datasets if one.name not in spared)
            yield from ((why, ("base", "from")) for why in misfits if why)

    def _unranked(self) -> Iterator[tuple[str, Place]]:
        """Strategies that solve a knapsack beside what ranks channels: the published protocol, a ratio."""
        if not self._published and self.ratio is None:
            return
        why = (
            "protocol pruningbench ranks channels" if self._published else "a ratio is a share of channels, not a cost"
        )
        for place, holder in self._holders():
            for found in set(KNAPSACKS).intersection(holder.strategies or ()):
                yield f"found {found!r}, expected a ranking: {why}", (*place, "strategies")

    @property
    def _published(self) -> bool:
        """Whether cells follow the published protocol."""
        extra = itertools.chain(*(one.protocols or () for one in self.include))
        return "pruningbench" in (*self.protocols, self.protocol, *extra)

    def _holders(self) -> Iterator[tuple[Place, Axis | Include | Sweep]]:
        """Everything that may set keys of cells, with the path to it: the sweep, its entries, its inclusions."""
        yield (), self
        yield from self._entries()
        yield from ((("include", i), one) for i, one in enumerate(self.include))

    def _entries(self) -> Iterator[tuple[Place, Axis]]:
        """Every entry that may override keys of the sweep, with the path to it."""
        holders: list[tuple[Place, Sweep | Include]] = [((), self)]
        holders += [(("include", i), one) for i, one in enumerate(self.include)]
        for (place, holder), axis in itertools.product(holders, ENTRIES):
            for i, entry in enumerate(getattr(holder, axis) or ()):
                yield (*place, axis, i), entry

    def _impossible_recipes(self) -> Iterator[tuple[str, Place]]:
        """Stages whose settings contradict each other, and speed options that the device doesn't have."""
        own: list[tuple[Place, Recipe]] = [(("recipes", i), one) for i, one in enumerate(self.recipes)]
        found = [(place, recipe, self.devices) for place, recipe in own or [(("recipe",), self.recipe)]]
        for i, extra in enumerate(self.include):
            found += [(("include", i, "recipes", j), one, self.devices) for j, one in enumerate(extra.recipes or ())]
        for place, entry in self._entries():
            if entry.recipe:
                on = (self.device_of(entry.name),) if isinstance(entry, ModelAxis) else self.devices
                found.append(((*place, "recipe"), entry.recipe, on))
        for place, recipe, devices in found:
            yield from ((message, (*place, *at)) for message, at in recipe.contradictions())
            if recipe.recalibration_images and self._published:
                wanted = f"found {recipe.recalibration_images}, expected 0"
                yield f"{wanted}: protocol pruningbench measures none anew", (*place, "recalibration_images")
            if recipe.early_stop and self._published:
                yield "found a block, expected none: protocol pruningbench stops no cell", (*place, "early_stop")
            impossible = {one: None for device in devices for one in recipe.speed.impossible(device)}
            yield from ((message, (*place, "speed", key)) for key, message in impossible)

    def _idle_resources(self) -> Iterator[tuple[str, Place]]:
        """Resources of models that no cell has, and shares of a GPU that is not computed on."""
        known = self.values("models")
        for pattern in self.resources.models:
            if pattern not in known and not any(fnmatchcase(model, pattern) for model in known):
                expected = f"expected a name or glob of this sweep's models: {', '.join(known)}"
                yield (
                    f"found {pattern!r}, {expected}.{nearest(pattern, known)}".removesuffix("."),
                    (*_OF_MODELS, pattern),
                )
        if self.device == "cpu":
            holders: list[tuple[Place, float | None]] = [(("resources",), self.resources.gpus)]
            holders += [((*_OF_MODELS, name), one.gpus) for name, one in self.resources.models.items()]
            for place, gpus in holders:
                if isinstance(gpus, Measured):
                    yield "found auto, expected a number: the sweep's device is cpu", (*place, "gpus")

    def _idle_exclusions(self) -> Iterator[tuple[str, Place]]:
        """Exclusions that name a value which no cell has."""
        named = (
            (place, axis, value)
            for place, one in enumerate(self.exclude)
            for axis in (*AXES, *VARYING)
            for value in values_of(one, axis)
        )
        for place, axis, value in named:
            known = self.values(axis)
            if value not in known:
                near = nearest(str(value), map(str, known)) if isinstance(value, str) else ""
                some = f"one of this sweep's {axis}: {', '.join(map(str, known))}.{near}"
                found = repr(value) if isinstance(value, str) else str(value)
                expected = some if known else f"none: the sweep has no {axis}"
                yield f"found {found}, expected {expected}".removesuffix("."), ("exclude", place, axis)

    def values(self, axis: str) -> list[Any]:
        """All values of `axis` anywhere in the sweep; for entries and recipes their names."""
        entries: list[Axis] = [*self.models, *self.datasets, *self.methods]
        for one in self.include:
            entries += [*(one.models or ()), *(one.datasets or ()), *(one.methods or ())]
        own = values_of(self, axis) if axis == "targets" else self.listed(axis)
        others = itertools.chain(*(values_of(holder, axis) for holder in (*self.include, *entries)))
        return list(dict.fromkeys(getattr(value, "name", value) for value in (*own, *others)))  # each once, in order
