"""Types and bounds of the numbers in a sweep or recipe, as data that validation, messages and the JSON Schema read."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import annotated_types
from pydantic import BaseModel, BeforeValidator, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

MOST_SEED = 2**63 - 1  # fits in the results' 64 bits; torch's and NumPy's generators take it
MOST_EPOCHS = 100_000
MOST_IMAGES = 10_000_000
MOST_BATCH = 2**20
MOST_SPEEDUP = 10_000
MOST_MS = 10_000_000
MOST_ROUND = 65_536
MOST_THREADS = 65_536
MOST_RATIO = 0.999  # shares above it leave single channels of every layer
MOST_NAME = 200  # characters; names become names of files
MOST_CELLS = 1_000_000
AUGMENTATIONS: Mapping[str, tuple[str, ...]] = {  # task -> what a recipe's `augment` may name
    "classification": ("shift", "flip", "crop", "resized-crop"),
    "detection": ("mosaic", "hsv", "shift", "scale", "flip"),
}
UNUSED: Mapping[str, Mapping[str, float]] = {  # task -> settings that it doesn't read, and what is expected
    "detection": {
        "label_smoothing": 0, "cutmix": 0, "randaugment": 0, "random_erasing": 0, "distill": 0, "start_scale": 1,
    },
}  # fmt: skip
Augmentation = typing.Literal["shift", "flip", "crop", "resized-crop", "mosaic", "hsv", "scale"]


def unused(stage: BaseModel, task: str) -> Iterator[tuple[str, str]]:
    """(setting, message) of every one in a recipe's stage that `task` doesn't read and that isn't off."""
    for key, expected in UNUSED.get(task, {}).items():
        if (found := getattr(stage, key)) != expected:
            yield key, f"found {found:g}; not supported for {task}, expected {expected:g}"


def _number(value: Any) -> Any:
    """`value`, which must be a number by itself: pydantic would also take true for 1 and '0.1' for 0.1."""
    if isinstance(value, (bool, str)):
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        raise PydanticCustomError("mistake", "{message}", {"message": f"found {shown}, expected a number", "at": []})
    return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]


def range_of(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    """The bounds of the field at `loc` below `model` in words, such as ``of at least 0 and below 1``; may be empty."""
    field = _field_at(model, loc)
    if field is None:
        return ""
    words = []
    for kind, word in (("gt", "above"), ("ge", "of at least"), ("lt", "below"), ("le", "at most")):
        found = [getattr(bound, kind) for bound in _bounds(field) if hasattr(bound, kind)]
        words += [f"{word} {_shown(found[0])}"] if found and found[0] is not None else []
    text = " and ".join(words)
    return f"of {text}" if text.startswith("at most") else text


def _shown(bound: Any) -> str:
    return str(int(bound)) if float(bound).is_integer() else f"{bound:g}"


def _field_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> FieldInfo | None:
    """The field that the last name in `loc` stands for."""
    field = None
    for step in loc:
        if isinstance(step, str) and step in model.model_fields:
            field = model.model_fields[step]
            model = model_in(field.annotation) or model
    return field


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside an annotation such as ``tuple[Annotated[Model, ...], ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, typing.get_args(annotation))), None)


def _bounds(found: Any) -> Iterator[Any]:
    """Every bound of a field: its own, and those of the values of a list."""
    if isinstance(found, FieldInfo):
        for one in found.metadata:
            yield from _bounds(one)
        yield from _bounds(found.annotation)
    elif isinstance(found, (annotated_types.Gt, annotated_types.Ge, annotated_types.Lt, annotated_types.Le)):
        yield found
    else:
        metadata = getattr(found, "__metadata__", ())
        for one in (*metadata, *typing.get_args(found)):
            if one is not found:
                yield from _bounds(one)
