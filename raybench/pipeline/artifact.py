"""The pruned network to take home, without pickles: `pruned.json` (what was kept) and `model.safetensors`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raybench.errors import UserError
from raybench.models.build import build_model
from raybench.pipeline import cache, surgery
from raybench.pipeline.group import trace
from raybench.pipeline.network import example_of
from raybench.pipeline.records import Cut
from raybench.provenance import installed
from raybench.spec.trial import Trial
from raybench.storage.base import Storage
from raybench.tasks.protocol import DataFacts

FORMAT = 1  # raise when pruned.json changes so that older readers can't read it
RECIPE = "pruned.json"


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
    cache.save_weights(model, folder)
    recipe = {
        "format": FORMAT,
        "trial_id": trial.trial_id,
        "model": trial.model,
        "model_params": trial.model_params,
        "prune": trial.prune,
        "data": asdict(data),
        "kept": cut.kept,
        "macs": cut.macs,
        "params": cut.params,
        "versions": {name: installed(name) for name in ("raybench", "torch", "timm", "torch-pruning")},
    }
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1, allow_nan=False))


def load_pruned(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The pruned network saved in the folder `path`, in eval mode: it gives bit-identical outputs to the saved one.

    Takes images of shape (n, channels, size, size) as the dense network did. UserError when `path` is no such folder.
    A plug-in's model must be known: `raybench.model`'s decorator has run, or `registry.add_plugin(file)`.
    """
    folder, recipe = Path(path), read_recipe(path)
    data = _data_facts(recipe["data"])
    model = build_model(recipe["model"], data, recipe["model_params"])
    groups = trace(model, example_of(data, torch.device("cpu")), prune=tuple(recipe["prune"]), classes=data.classes)
    surgery.apply(model, groups, {name: tuple(kept) for name, kept in recipe["kept"].items()})
    return cache.load_weights(model, folder, torch.device(device)).eval()


def read_recipe(path: str | Path) -> dict[str, Any]:
    """What `pruned.json` of the folder `path` says."""
    file = Path(path) / RECIPE
    if not file.is_file():
        raise UserError(f"{path}: found no {RECIPE}; expected the folder of a pruned network (artifacts/<trial_id>)")
    recipe = json.loads(file.read_text())
    if recipe.get("format") != FORMAT:
        raise UserError(f"{file}: found format {recipe.get('format')!r}, this raybench reads format {FORMAT}")
    return recipe


def _data_facts(fields: Mapping[str, Any]) -> DataFacts:
    return DataFacts(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
