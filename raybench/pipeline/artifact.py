"""The pruned network to take home, without pickles: `pruned.json` (what was kept) and `model.safetensors`."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from raybench.errors import UserError
from raybench.models.build import build_model
from raybench.pipeline import cache, surgery
from raybench.pipeline.group import trace
from raybench.pipeline.network import example_of
from raybench.pipeline.records import Cut
from raybench.provenance import installed
from raybench.spec.mistakes import dotted, explain, show
from raybench.spec.trial import Trial
from raybench.storage.base import Storage
from raybench.tasks.protocol import DataFacts

FORMAT = 1  # raise when pruned.json changes so that older readers can't read it
RECIPE = "pruned.json"
SHOWN = 3  # mistakes that a message quotes


class Saved(BaseModel):
    """What of `pruned.json` is needed to make the network again; the rest is for people."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str
    model_params: dict[str, Any]
    prune: tuple[str, ...]
    data: DataFacts
    kept: dict[str, tuple[int, ...]]
    weights_sha256: str | None = None  # older files have none

    @field_validator("kept")
    @classmethod
    def _each_once(cls, kept: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        for name, units in kept.items():
            if len(set(units)) < len(units):
                raise ValueError(f"{name}: found a unit twice, expected each once")
        return kept


def publish(storage: Storage, trial: Trial, model: nn.Module, cut: Cut, data: DataFacts) -> str:
    """Put the pruned `model` of a cell under `artifacts/<trial_id>` of the storage; returns that key.

    When an earlier run of the same cell was killed after this point its copy stays: it is the same.
    """
    key = f"artifacts/{trial.trial_id}"
    with tempfile.TemporaryDirectory(prefix="raybench-artifact-") as temporary:
        folder = Path(temporary) / trial.trial_id
        folder.mkdir()
        save(folder, trial, model, cut, data)
        storage.publish(key, folder)
    return key


def save(folder: Path, trial: Trial, model: nn.Module, cut: Cut, data: DataFacts) -> None:
    """Write the pruned `model` into `folder`."""
    sha256 = cache.save_weights(model, folder)
    recipe = {
        "format": FORMAT,
        "trial_id": trial.trial_id,
        "model": trial.model,
        "model_params": trial.model_params,
        "prune": trial.prune,
        "data": asdict(data),
        "kept": cut.kept,
        "weights_sha256": sha256,
        "macs": cut.macs,
        "params": cut.params,
        "versions": {name: installed(name) for name in ("raybench", "torch", "timm", "torch-pruning")},
    }
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1, allow_nan=False))


def load_pruned(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The pruned network saved in the folder `path`, in eval mode: it gives bit-identical outputs to the saved one.

    Takes images of shape (n, channels, size, size) as the dense network did. UserError when `path` is no such folder,
    a file in it is damaged, or the model's code no longer makes the network that was pruned.
    A plug-in's model must be known: `raybench.model`'s decorator has run, or `registry.add_plugin(file)`.
    """
    folder, recipe = Path(path), read_recipe(path)
    try:
        model = build_model(recipe.model, recipe.data, recipe.model_params)
        example = example_of(recipe.data, torch.device("cpu"))
        groups = trace(model, example, prune=recipe.prune, classes=recipe.data.classes)
        surgery.apply(model, groups, recipe.kept)
    except UserError as error:
        raise UserError(f"{folder / RECIPE}: {error}") from error
    _fill(model, folder / cache.WEIGHTS, recipe.weights_sha256)
    return model.to(torch.device(device)).eval()


def read_recipe(path: str | Path) -> Saved:
    """What `pruned.json` of the folder `path` says; UserError when it isn't there or is damaged."""
    file = Path(path) / RECIPE
    if not file.is_file():
        raise UserError(f"{path}: found no {RECIPE}; expected the folder of a pruned network (artifacts/<trial_id>)")
    try:
        text = file.read_text("utf-8")
        told = json.loads(text)
    except (OSError, ValueError) as error:  # no UTF-8 and no JSON are ValueErrors
        raise UserError(f"{file}: can't be read: {error}; expected JSON, as raybench wrote it") from error
    if not isinstance(told, dict):
        raise UserError(f"{file}: found {show(told)}, expected a mapping; the file is damaged")
    if told.get("format") != FORMAT:
        raise UserError(f"{file}: found format {told.get('format')!r}, this raybench reads format {FORMAT}")
    try:
        return Saved.model_validate_json(text, strict=True)
    except ValidationError as error:
        mistakes = [f"{dotted(one['loc'])}: {explain(one, Saved)}" for one in error.errors(include_url=False)]
        raise UserError(f"{file}: {'; '.join(mistakes[:SHOWN])}; the file is damaged") from error


def _fill(model: nn.Module, file: Path, sha256: str | None) -> None:
    """Fill `model` with exactly the tensors in `file`; UserError when they aren't those that were saved."""
    try:
        content = file.read_bytes()
        found = load(content)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: can't be read: {error}; expected the weights of a pruned network") from error
    if odd := _differences(found, model.state_dict()):
        more = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        raise UserError(
            f"{file}: {'; '.join(odd[:SHOWN])}{more}. One of the folder's files is not the one that was saved, "
            f"or the code of {type(model).__name__} has changed since"
        )
    is_ = hashlib.sha256(content).hexdigest()
    if sha256 is not None and is_ != sha256:
        raise UserError(f"{file}: found other content (SHA-256 {is_[:16]}) than was saved ({sha256[:16]})")
    model.load_state_dict(found, strict=True)


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """The tensors that are missing, too many, or of another type or shape, in words."""
    kinds = {name: (_kind(found.get(name)), _kind(expected.get(name))) for name in [*expected, *found]}
    return [f"{name}: found {has}, expected {wants}" for name, (has, wants) in kinds.items() if has != wants]


def _kind(tensor: Tensor | None) -> str:
    """`float32 (16, 3)`, or that there is none."""
    return "none" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
