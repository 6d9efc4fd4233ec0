"""JSON Schema of a sweep file: the pydantic model's, plus the short forms that the reader accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raybench import registry
from raybench.sweep.reader import recipe_files
from raybench.sweep.spread import PARAMS
from raybench.sweep.sweep import Sweep

_NAMED = {"ModelAxis": registry.model, "DatasetAxis": registry.dataset}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a sweep file. Single values, bare names, `extends` and partial recipes are allowed."""
    schema = Sweep.model_json_schema()
    definitions = schema["$defs"]
    for name in ("Recipe", "TrainRecipe"):  # with `extends`, any part of a recipe may be left out
        definitions[name].pop("required", None)
    definitions["Recipe"]["properties"]["extends"] = {"type": "string", "description": "the recipe that this changes"}
    recipes = sorted(recipe_files(Path()))
    for definition in (schema, *definitions.values()):
        for key, field in definition.get("properties", {}).items():
            definition["properties"][key] = _either(_shorter(_bounded(field), recipes))
    for name in ("Resources", "ModelResources"):
        definitions[name]["properties"]["memory"] = {
            "anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "examples": ["512MiB", "2GiB"]}]
        }
    for name, names in _NAMED.items():
        definitions[name]["properties"]["name"]["examples"] = list(names.entries())
    definitions["MethodAxis"]["properties"]["name"]["examples"] = method_names()
    for key in PARAMS:  # a list of values makes one method of each
        values = definitions["MethodAxis"]["properties"][key]["additionalProperties"]
        both = {"anyOf": [*values["anyOf"], {"type": "array", "items": values, "minItems": 1}]}
        definitions["MethodAxis"]["properties"][key]["additionalProperties"] = both
    schema["properties"]["extends"] = {"type": "string", "description": "another sweep file that this one changes"}
    schema.pop("required", None)  # with `extends`, any key may be left out
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "raybench sweep"}


def method_names() -> list[str]:
    """Every criterion, alone and with every regularizer, and what stands alone."""
    criteria, regularizers = registry.importance.entries(), registry.regularizer.entries()
    return [
        *criteria,
        *(name for name in registry.CHOICE.entries() if name not in criteria),
        *(f"{criterion}+{regularizer}" for criterion in criteria for regularizer in regularizers),
    ]


def _shorter(schema: dict[str, Any], recipes: list[str]) -> dict[str, Any]:
    """`schema` that allows a name in place of a mapping."""
    reference = schema.get("$ref", "").rpartition("/")[2]
    if reference in ("ModelAxis", "DatasetAxis", "MethodAxis"):
        names = method_names() if reference == "MethodAxis" else list(_NAMED[reference].entries())
        return {"anyOf": [{"type": "string", "examples": names}, schema]}
    if reference == "Recipe":
        return {"anyOf": [{"type": "string", "examples": recipes}, schema]}
    if "anyOf" in schema:
        return schema | {"anyOf": [_shorter(one, recipes) for one in schema["anyOf"]]}
    return schema | {"items": _shorter(schema["items"], recipes)} if schema.get("type") == "array" else schema


_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _bounded(schema: Any) -> Any:
    """`schema` with bounds by JSON Schema's names; behind a validator pydantic writes its own."""
    if isinstance(schema, list):
        return [_bounded(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    numeric = schema.get("type") in ("number", "integer")
    return {_BOUNDS.get(key, key) if numeric else key: _bounded(value) for key, value in schema.items()}


def _either(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` that allows a single value in place of a list."""
    if schema.get("type") == "array" and "items" in schema:
        about: dict[str, Any] = {key: schema[key] for key in ("default", "description", "title") if key in schema}
        array = {key: value for key, value in schema.items() if key not in about}
        if "minLength" in array:  # pydantic writes minLength behind a validator
            array["minItems"] = array.pop("minLength")
        return {"anyOf": [schema["items"], array], **about}
    if "anyOf" in schema:
        flat = [part for one in schema["anyOf"] for part in _either(one).get("anyOf", [one])]
        return schema | {"anyOf": flat}
    return schema
