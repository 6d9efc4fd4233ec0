"""A small sweep that the tests of specs and of ids change piece by piece."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from raybench.cli.main import main
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.mistakes import explain
from raybench.sweep.sweep import Sweep

STAGE = {"epochs": 1, "lr": 0.1}
RECIPE = {"name": "r", "base": {"epochs": 2, "lr": 0.1}, "sparsify": STAGE, "finetune": STAGE}
AXES = {
    "name": "s",
    "datasets": "digits",
    "models": ["test-convnet", "test-vit"],
    "methods": ["magnitude-l1", "taylor", "magnitude-l2+group-norm"],
    "speedups": [2, 4],
    "seeds": [0, 1],
    "recipe": RECIPE,
}
GRID = "name: s\ndatasets: digits\nmodels: test-vit\nmethods: random\nspeedups: 2\n"


def sweep(**changes) -> Sweep:
    """The sweep with other keys."""
    return Sweep.model_validate(AXES | changes)


def written(folder: Path, text: str, name: str = "s.yaml") -> Path:
    """`text` as a file in `folder`, beside RECIPE as the recipe `small`."""
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes/small.yaml").write_text(json.dumps({k: v for k, v in RECIPE.items() if k != "name"}))
    (folder / name).write_text(text)
    return folder / name


def rows_of(folder: Path, text: str) -> tuple[list[dict[str, Any]], Path]:
    """(the rows of the sweep `text`, its storage), run in this process in `folder`."""
    (folder / "s.yaml").write_text(text)
    storage = folder / "results"
    assert main(["run", str(folder / "s.yaml"), "--local", "--quiet", "--storage", str(storage)]) == 0
    return Store(open_storage(str(storage))).table().to_pylist(), storage


def only_row(rows: Iterable[dict[str, Any]], **asked: Any) -> dict[str, Any]:
    """The one row with these values."""
    (found,) = [row for row in rows if asked.items() <= row.items()]
    return found


def problems_of(model: type[BaseModel], fields: Mapping[str, Any] | int) -> list[tuple[str, tuple]]:
    """(message, path) of each mistake that validating `model` finds."""
    with pytest.raises(ValidationError) as error:
        model.model_validate(fields)
    found = []
    for one in error.value.errors(include_url=False):
        context = one.get("ctx", {})
        found.append((explain(one, model), (*one["loc"], *context.get("at", ()))))
        found += [(more["message"], (*one["loc"], *more["at"])) for more in context.get("more", ())]
    return found
