"""The key `base` of a sweep: whose weights its networks start from, with a new classifier."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import Field, field_validator, model_serializer

from raybench import registry
from raybench.errors import UserError, nearest
from raybench.sweep.axes import StrictModel, mistake

TRIAL = re.compile("[0-9a-f]{16}")
EXPECTED = "a dataset, a file of weights, or STORAGE/TRIAL_ID of a finished cell"


class Source(StrictModel):
    """Where the weights of a transfer come from."""

    from_: str = Field(alias="from", min_length=1, description=EXPECTED)

    @field_validator("from_")
    @classmethod
    def _there(cls, text: str) -> str:
        if text not in registry.dataset.entries() and not Path(text).is_file():
            try:
                weights_of_cell(Path(text))
            except UserError as error:
                raise mistake(str(error)) from error
        return text

    @model_serializer
    def _as_typed(self) -> dict[str, str]:
        """The mapping as a sweep file has it."""
        return {"from": self.from_}

    @property
    def dataset(self) -> str | None:
        """The dataset that the sweep trains the source on; None for weights that are there."""
        return self.from_ if self.from_ in registry.dataset.entries() else None

    def misfit(self, dataset: str) -> str | None:
        """Why the source's data can't precede `dataset`; None where they can, or it isn't known which they are."""
        if self.dataset is None:
            return None
        if self.dataset == dataset:
            return f"found {self.dataset}, which is the dataset itself; expected another one"
        mine, other = (
            registry.dataset.entry(name).facts.get("task", "classification") for name in (self.dataset, dataset)
        )
        return None if mine == other else f"found {self.dataset}, which is data for {mine}; {dataset} is for {other}"

    @property
    def file(self) -> Path:
        """The file of weights."""
        path = Path(self.from_)
        return path if path.is_file() else weights_of_cell(path)


def weights_of_cell(path: Path) -> Path:
    """The file of the dense base of the cell STORAGE/TRIAL_ID, a folder's; UserError where there is none."""
    storage, trial_id = path.parent, path.name
    if not TRIAL.fullmatch(trial_id):
        near = nearest(path.name, registry.dataset.entries())
        raise UserError(f"found {str(path)!r}, expected {EXPECTED}; there is no such file or dataset.{near}")
    saved = storage / "artifacts" / trial_id / "pruned.json"
    if not saved.is_file():
        raise UserError(f"found {str(path)!r}; {storage} is no folder with a finished cell {trial_id}")
    try:
        key = json.loads(saved.read_bytes())["base_key"]
    except (ValueError, KeyError, TypeError):
        key = "none, as of an older version"
    weights = storage / "stages" / str(key) / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"found {str(path)!r}; its dense network (stage {key}) is not in {storage}: give a file")
    return weights
