"""The JSON Schema of a sweep file: what the pydantic model says, with what people may write shorter."""

from __future__ import annotations

from typing import Any

from raybench import registry
from raybench.spec.reader import RECIPES
from raybench.spec.sweep import Sweep

_NAMED = {"ModelAxis": registry.model, "DatasetAxis": registry.dataset}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the YAML: scalars for lists, names for mappings, `extends`, partial recipes."""
    schema = Sweep.model_json_schema()
    definitions = schema["$defs"]
    for name in ("Recipe", "TrainRecipe"):  # with `extends`, any part of a recipe may be left out
        definitions[name].pop("required", None)
    definitions["Recipe"]["properties"]["extends"] = {"type": "string", "description": "the recipe that this changes"}
    recipes = sorted({file.stem for folder in RECIPES for file in folder.glob("*.yaml")})
    for definition in (schema, *definitions.values()):
        for key, told in definition.get("properties", {}).items():
            definition["properties"][key] = _either(_shorter(told, recipes))
    definitions["Resources"]["properties"]["memory"] = {
        "anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "examples": ["512MiB", "2GiB"]}]
    }
    for name, names in _NAMED.items():
        definitions[name]["properties"]["name"]["examples"] = list(names.entries())
    definitions["MethodAxis"]["properties"]["name"]["examples"] = method_names()
    schema["properties"]["extends"] = {"type": "string", "description": "another sweep file that this one changes"}
    schema.pop("required", None)  # what a sweep extends may say it
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "raybench sweep"}


def method_names() -> list[str]:
    """Every criterion, alone and with every regularizer."""
    criteria, regularizers = registry.importance.entries(), registry.regularizer.entries()
    return [*criteria, *(f"{criterion}+{regularizer}" for criterion in criteria for regularizer in regularizers)]


def _shorter(told: dict[str, Any], recipes: list[str]) -> dict[str, Any]:
    """`told` with a name allowed where a mapping stands for it."""
    reference = told.get("$ref", "").rpartition("/")[2]
    if reference in ("ModelAxis", "DatasetAxis", "MethodAxis"):
        names = method_names() if reference == "MethodAxis" else list(_NAMED[reference].entries())
        return {"anyOf": [{"type": "string", "examples": names}, told]}
    if reference == "Recipe":
        return {"anyOf": [{"type": "string", "examples": recipes}, told]}
    if "anyOf" in told:
        return told | {"anyOf": [_shorter(one, recipes) for one in told["anyOf"]]}
    return told | {"items": _shorter(told["items"], recipes)} if told.get("type") == "array" else told


def _either(told: dict[str, Any]) -> dict[str, Any]:
    """`told` with one value allowed where a list stands."""
    if told.get("type") == "array" and "items" in told:
        about = {key: told[key] for key in ("default", "description", "title") if key in told}
        array = {key: value for key, value in told.items() if key not in about}
        if "minLength" in array:  # pydantic's word for it behind a validator
            array["minItems"] = array.pop("minLength")
        return {"anyOf": [told["items"], array], **about}
    if "anyOf" in told:
        flat = [part for one in told["anyOf"] for part in _either(one).get("anyOf", [one])]
        return told | {"anyOf": flat}
    return told
