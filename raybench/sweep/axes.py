"""Entries of a sweep's axes: models, datasets and methods, each with the keys that it overrides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from raybench import registry
from raybench.catalogue import OPTIONS, REQUIRED, Entry
from raybench.errors import nearest, nearest_path, unknown
from raybench.image_size import LARGEST
from raybench.sweep.bounds import MOST_MS, MOST_ROUND, MOST_SEED, MOST_SPEEDUP
from raybench.sweep.data_roots import folder_hint
from raybench.sweep.mistakes import show
from raybench.sweep.modules import as_module, module_hint, strange_parameters
from raybench.sweep.recipe import Recipe
from raybench.sweep.target import TARGETS, Amount
from raybench.sweep.trial import Scalar

StrategyName = Literal["local", "global", "protected-global", "isomorphic", "optimal", "optimal-blocks"]
Schedule = Literal["auto", "progressive", "iterative", "one-shot"]
Part = Literal["embed", "heads", "head-dim", "mlp"]


class StrictModel(BaseModel):
    """Base of the models of a sweep file: frozen, unknown keys are refused, types are not converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def mistake(message: str, *at: str | int) -> PydanticCustomError:
    """An error to raise from a validator; `at` is the path from the validated value to the wrong one."""
    return PydanticCustomError("mistake", "{message}", {"message": message, "at": list(at)})


Place = tuple[str | int, ...]  # path of keys and indices from a validated value to a part of it


def refuse(found: Iterable[tuple[str, Place]]) -> None:
    """Raise everything that was `found`, (message, path) each, as one error of a validator; nothing for nothing."""
    several = [{"message": message, "at": list(at)} for message, at in found]
    if several:
        raise PydanticCustomError("mistake", "{message}", {**several[0], "more": several[1:]})


def as_tuple(value: Any) -> Any:
    """A list, or a single value, as a tuple: every axis accepts both."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values unchanged; raises a mistake for each that was there before."""
    seen: set[Any] = set()
    again: list[tuple[str, Place]] = []
    for place, value in enumerate(values):
        known = value if isinstance(value, (str, int, float)) else value.model_dump_json()
        if known in seen:
            again.append((f"found {getattr(value, 'name', value)!r} twice, expected each value once", (place,)))
        seen.add(known)
    refuse(again)
    return values


def named(value: Any) -> Any:
    """A bare name as a mapping with only the name."""
    if not isinstance(value, (str, dict, Axis)):
        raise mistake(f"found {show(value)}, expected a name or a mapping with a name")
    return {"name": value} if isinstance(value, str) else value


def without_x(value: Any) -> Any:
    """``2x`` as the number 2.0; anything else unchanged."""
    return float(value[:-1]) if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[xX]", value) else value


def without_ms(value: Any) -> Any:
    """``2.5 ms`` as the number 2.5; anything else unchanged."""
    found = re.fullmatch(r"(\d+(\.\d+)?) ?ms", value) if isinstance(value, str) else None
    return float(found[1]) if found else value


Many = BeforeValidator(as_tuple)
Speedup = Annotated[float, Field(gt=1, le=MOST_SPEEDUP, allow_inf_nan=False), BeforeValidator(without_x)]
Speedups = Annotated[tuple[Speedup, ...], Many, Field(min_length=1)]
NO_SPEEDUPS = object()  # in place of the speed-ups of a sweep that has other targets only
SomeSpeedups = Annotated[Speedups, WrapValidator(lambda value, check: () if value is NO_SPEEDUPS else check(value))]
Milliseconds = Annotated[float, Field(gt=0, le=MOST_MS, allow_inf_nan=False), BeforeValidator(without_ms)]
ImageSide = Annotated[int, Field(ge=1, le=LARGEST)]
Depth = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, le=MOST_SEED)], ...], Many, Field(min_length=1)]
Strategies = Annotated[tuple[StrategyName, ...], Many, Field(min_length=1)]
Patterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Many]
AttentionParts = Annotated[tuple[Part, ...], Many, Field(min_length=1)]


class Targets(StrictModel):
    """Amounts of other costs than MACs. Each is a cell, beside those of `speedups`."""

    params: Speedups | None = Field(default=None, description="base parameters / pruned parameters")
    latency_ms: Annotated[tuple[Milliseconds, ...], Many, Field(min_length=1)] | None = Field(
        default=None, description="milliseconds of one image, by a table measured on the device of the cells"
    )
    latency: Speedups | None = Field(
        default=None, description="milliseconds of the uncut network / of the pruned one, both measured there"
    )

    @field_validator("latency", mode="before")
    @classmethod
    def _no_share(cls, value: Any) -> Any:
        for place, one in enumerate(as_tuple(value)):
            if isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < 1:
                wanted = f"a number above 1, as speedups are: uncut / pruned, such as {1 / one:.3g}"
                raise mistake(f"found {one:g}, expected {wanted}", place)
        return value

    @field_validator("params", "latency_ms", "latency")
    @classmethod
    def _once(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return values and distinct(values)

    @model_validator(mode="after")
    def _some(self) -> Targets:
        if not self.amounts:
            raise mistake("found no target, expected params, latency or latency_ms; MACs are the key speedups")
        return self

    @property
    def amounts(self) -> tuple[Amount, ...]:
        """Every asked amount."""
        return tuple(Amount(one, kind) for kind in TARGETS[1:] for one in getattr(self, kind) or ())


def amounts_of(holder: Any) -> tuple[Amount, ...]:
    """The asked amounts of a sweep, an entry or an inclusion: its speed-ups, then its other targets."""
    targets = holder.targets.amounts if holder.targets else ()
    return (*(Amount(one) for one in holder.speedups or ()), *targets)


class Axis(StrictModel):
    """One entry of `models`, `datasets` or `methods`. The keys that it sets apply to its cells only.

    If several entries of a cell set the same key, the method's value is used, else the model's, else the dataset's.
    """

    name: str = Field(min_length=1)
    params: dict[str, Scalar] = Field(default={}, validate_default=True)
    speedups: Speedups | None = None
    targets: Targets | None = None
    seeds: Seeds | None = None
    strategies: Strategies | None = None
    schedule: Schedule | None = None
    prune: AttentionParts | None = None
    keep: Patterns | None = None
    only: Patterns | None = None
    round_to: int | None = Field(default=None, ge=1, le=MOST_ROUND)
    recipe: Recipe | None = None


class ModelAxis(Axis):
    """A model: a registered name, `timm:NAME` or `module:function`, and where its weights come from."""

    weights: str = Field(
        default="trained", min_length=1, description="trained (default), pretrained, or the path of a file"
    )
    new_head: bool = Field(
        default=False, description="give the weights' network a new classifier, trained by the recipe's base stage"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name.startswith("timm:") and name != "timm:":
            return name
        name = as_module(name)
        if ":" in name:
            if not re.fullmatch(r"[\w.]+:\w+", name):
                raise mistake(f"found {name!r}, expected a registered name, timm:NAME or module:function")
            return name
        if name not in registry.model.entries() and (hint := module_hint(name)):
            raise mistake(hint)
        return _registered(name, registry.model)

    @field_validator("params")
    @classmethod
    def _accepted(cls, params: dict[str, Scalar], info: ValidationInfo) -> dict[str, Scalar]:
        name = info.data.get("name", "")
        if ":" in name:  # a function of the user's own
            refuse((message, (one,)) for message, one in strange_parameters(name, params))
        return checked(params, registry.model.entries().get(name))

    @field_validator("weights")
    @classmethod
    def _there(cls, weights: str, info: ValidationInfo) -> str:
        entry = registry.model.entries().get(info.data.get("name", ""))
        name = info.data.get("name", "timm:")
        if weights == "pretrained" and not (entry.facts.get("pretrained") if entry else name.startswith("timm:")):
            raise mistake(
                f"found 'pretrained', expected 'trained' or a file: no published weights are known for {name!r}"
            )
        if weights not in ("trained", "pretrained") and not Path(weights).is_file():
            near = nearest_path(Path(weights)) or nearest(Path(weights).name, ("trained", "pretrained"))
            raise mistake(
                f"found {weights!r}, expected 'trained', 'pretrained' or a file; there is no such file.{near}"
            )
        return weights

    @field_validator("new_head")
    @classmethod
    def _of_given_weights(cls, new_head: bool, info: ValidationInfo) -> bool:
        if new_head and info.data.get("weights") == "trained":
            raise mistake("found true, expected false: without weights of others the whole network is new")
        return new_head


class DatasetAxis(Axis):
    """A dataset by its registered name."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in registry.dataset.entries():
            raise mistake(unknown("dataset", name, registry.dataset.entries()) + folder_hint(name))
        return name

    @field_validator("params")
    @classmethod
    def _accepted(cls, params: dict[str, Scalar], info: ValidationInfo) -> dict[str, Scalar]:
        return checked(params, registry.dataset.entries().get(info.data.get("name", "")))


class MethodAxis(Axis):
    """`importance` or `importance+regularizer`. `params` are the criterion's parameters."""

    regularizer_params: dict[str, Scalar] = Field(default={}, validate_default=True)

    @property
    def importance(self) -> str:
        """Name of the criterion."""
        return self.name.partition("+")[0]

    @property
    def regularizer(self) -> str | None:
        """Name of the sparsity regularizer, None without one."""
        return self.name.partition("+")[2] or None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        importance, plus, regularizer = name.partition("+")
        parts: list[tuple[str, registry.Registry | registry.Either]] = [(importance, registry.CHOICE)]
        parts += [(regularizer, registry.regularizer)] if plus else []
        refuse((_unknown_method(part, kind), ()) for part, kind in parts if part not in kind.entries())
        if plus and importance in registry.selection.entries():
            raise mistake(f"found {name!r}, expected {importance!r} alone: it trains by itself, without a regularizer")
        if plus and importance in registry.token.entries():
            raise mistake(
                f"found a regularizer, which shrinks channels; expected {importance} alone: it removes tokens"
            )
        return name

    @field_validator("params")
    @classmethod
    def _accepted(cls, params: dict[str, Scalar], info: ValidationInfo) -> dict[str, Scalar]:
        importance = info.data.get("name", "").partition("+")[0]
        return checked(params, registry.CHOICE.entries().get(importance))

    @field_validator("regularizer_params")
    @classmethod
    def _accepted_too(cls, params: dict[str, Scalar], info: ValidationInfo) -> dict[str, Scalar]:
        name = info.data.get("name", "")
        regularizer = name.partition("+")[2]
        if params and name and not regularizer:
            raise mistake(f"found parameters of a regularizer, but {name!r} has none; expected {name}+REGULARIZER")
        return checked(params, registry.regularizer.entries().get(regularizer))


def resolved(entry: Entry, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The entry's defaults updated with `params`, floats where the default is one. Hashed, and passed to the code."""
    values = {name: value for name, value in entry.params.items() if isinstance(value, Scalar) and value != REQUIRED}
    values |= {name: entry.canonical(name, value) for name, value in params.items()}
    return {name: value for name, value in values.items() if name not in entry.options or value != OPTIONS[name][0]}


def checked(params: dict[str, Scalar], entry: Entry | None) -> dict[str, Scalar]:
    """`params` unchanged; raises a mistake for each unknown, missing or wrongly typed parameter of `entry`."""
    if entry is not None:  # an unknown name is reported already
        refuse(_wrong(params, entry))
    return params


def _wrong(params: Mapping[str, Scalar], entry: Entry) -> Iterator[tuple[str, Place]]:
    """What is wrong with `params` of `entry`, as (message, path)."""
    for name, value in params.items():
        if name not in entry.params and name not in entry.options:
            near, known = nearest(name, (*entry.params, *entry.options)), ", ".join(entry.params) or "none"
            yield f"unknown parameter of {entry.noun} {entry.name!r}.{near} Known: {known}", (name,)
        elif wrong := entry.misfit(name, value):
            yield wrong, (name,)
    for name, default in entry.params.items():
        if default == REQUIRED and name not in params:
            yield f"{entry.noun} {entry.name!r} needs the parameter {name!r}", ()


def _unknown_method(name: str, kind: registry.Registry | registry.Either) -> str:
    """The message for a name of no method; where it is like none, it may be the reader's own."""
    names = kind.entries()
    own = "" if nearest(name, names) else ". A method of your own needs --plugin FILE"
    return unknown(kind.noun, name, names) + own


def _registered(name: str, names: registry.Registry) -> str:
    if name not in names.entries():
        raise mistake(unknown(names.noun, name, names.entries()))
    return name
