"""Cells that a sweep adds to the product of its axes, and cells that it takes out of it. Either may name every axis."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from raybench.sweep.axes import (
    Axis,
    DatasetAxis,
    Depth,
    ImageSide,
    Many,
    MethodAxis,
    ModelAxis,
    Seeds,
    Speedups,
    Strategies,
    StrictModel,
    Targets,
    amounts_of,
    distinct,
    mistake,
    named,
)
from raybench.sweep.recipe import Recipe
from raybench.sweep.target import Amount
from raybench.sweep.weights import Transfer

Models = Annotated[tuple[Annotated[ModelAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Datasets = Annotated[tuple[Annotated[DatasetAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Methods = Annotated[tuple[Annotated[MethodAxis, BeforeValidator(named)], ...], Many, Field(min_length=1)]
Names = Annotated[tuple[str, ...], Many, Field(min_length=1)]

Protocol = Literal["raybench", "pruningbench"]
Recipes = Annotated[tuple[Recipe, ...], Many]
Protocols = Annotated[tuple[Protocol, ...], Many]
Transfers = Annotated[tuple[Transfer, ...], Many]
Depths = Annotated[tuple[Depth, ...], Many, Field(min_length=1)]
ImageSizes = Annotated[tuple[ImageSide, ...], Many]
AXES = ("models", "datasets", "methods", "strategies", "speedups", "targets", "seeds")  # of cells of one variant
VARYING = ("recipes", "protocols", "transfer", "depths", "image_sizes")  # each combination is a variant of the sweep


class _Cells(StrictModel):
    """The axes whose values cells to add, and cells to take out, name in the same way."""

    strategies: Strategies | None = None
    speedups: Speedups | None = None
    targets: Targets | None = None
    seeds: Seeds | None = None
    protocols: Annotated[Protocols, Field(min_length=1)] | None = None
    transfer: Annotated[Transfers, Field(min_length=1)] | None = None
    depths: Depths | None = None
    image_sizes: Annotated[ImageSizes, Field(min_length=1)] | None = None


class Include(_Cells):
    """Cells to add. Axes left out are the sweep's own."""

    models: Models | None = None
    datasets: Datasets | None = None
    methods: Methods | None = None
    recipes: Annotated[Recipes, Field(min_length=1)] | None = None

    @field_validator(*VARYING)
    @classmethod
    def _once(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return values and distinct(values)

    @model_validator(mode="after")
    def _additional(self) -> Include:
        if not self.model_fields_set:
            raise mistake("found no axis, expected at least one: these would be the sweep's own cells")
        return self

    @property
    def varies(self) -> bool:
        """Whether its cells differ from the sweep's in more than the axes of one variant."""
        return any(getattr(self, axis) for axis in VARYING)


class Exclude(_Cells):
    """Cells to take out: those that match every given axis. Speed-ups and other targets are one axis."""

    models: Names | None = None
    datasets: Names | None = None
    methods: Names | None = None
    recipes: Names | None = None

    @model_validator(mode="after")
    def _selective(self) -> Exclude:
        if not self.model_fields_set:
            raise mistake("found no axis, expected at least one: this would exclude every cell")
        return self

    def takes(self, asked: Amount) -> bool:
        """Whether it takes out cells that ask for `asked`."""
        amounts = amounts_of(self)
        return not amounts or asked in amounts

    def matches(self, values: dict[str, Any]) -> bool:
        """Whether it takes out cells that have these `values`, by axis, as far as they go."""
        return all(value in allowed for axis, value in values.items() if (allowed := getattr(self, axis)))


def values_of(holder: Any, axis: str) -> tuple[Any, ...]:
    """The values of `axis` that a sweep, an entry of it, an inclusion or an exclusion names; none if it doesn't."""
    if axis == "targets":
        return tuple(holder.targets.amounts) if holder.targets else ()
    if axis == "recipes" and isinstance(holder, Axis):
        return (holder.recipe,) if holder.recipe else ()
    return tuple(getattr(holder, axis, None) or ())
