"""The stage cache: results that several cells share, computed once and stored as `stages/<key>/`."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raybench.errors import StageError
from raybench.pipeline.context import StageContext

RESULT = "result.json"
WEIGHTS = "model.safetensors"


def build_once(
    context: StageContext, key: str, build: Callable[[Path], Mapping[str, Any]], seconds: float | None = None
) -> Path:
    """The folder of stage `key`, from the cache or, if it isn't there, built by `build` and published.

    `build` gets an empty temporary folder for its files and returns the content of ``result.json``. When two writers
    race, the first one's copy is used by all. `seconds`: time of the stage, if it isn't that of `build`.
    """
    entry = context.storage.fetch(f"stages/{key}")
    if entry is not None:
        return entry
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="raybench-stage-") as temporary:
        folder = Path(temporary) / key
        folder.mkdir()
        result = dict(build(folder))
        result["seconds"] = time.perf_counter() - started if seconds is None else seconds
        (folder / RESULT).write_text(json.dumps(result, allow_nan=False))
        context.storage.publish(f"stages/{key}", folder)
    return read(context, key, "stage")


def read(context: StageContext, key: str, what: str) -> Path:
    """The folder of a stage that must be in the cache; StageError when it is not (e.g. deleted meanwhile)."""
    entry = context.storage.fetch(f"stages/{key}")
    if entry is None:
        raise StageError(what, f"{what} {key} is not in the stage cache of {context.storage.url}; run the sweep again")
    return entry


def result(folder: Path) -> dict[str, Any]:
    """The ``result.json`` of the stage in `folder`."""
    content: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return content


def save_weights(model: nn.Module, folder: Path) -> str:
    """Write every parameter and buffer of `model` as safetensors; returns the file's SHA-256.

    Tied tensors are written as copies; loading fills the tied tensors of a network in place, so they stay tied.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def load_weights(model: nn.Module, folder: Path, device: torch.device) -> nn.Module:
    """Fill `model` with the weights of a stage, strictly, and move it to `device`."""
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return model.to(device)
