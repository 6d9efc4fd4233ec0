"""The stage cache: what several cells share is computed once and lies, content-addressed, under `stages/<key>/`."""

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
from raybench.pipeline.room import Room

RESULT = "result.json"
WEIGHTS = "model.safetensors"


def build_once(room: Room, key: str, build: Callable[[Path], Mapping[str, Any]], seconds: float | None = None) -> Path:
    """The folder of stage `key`: as published, or built in a temporary folder by `build` and then published.

    `build` gets an empty folder for its files and returns what goes into ``result.json``. When two writers
    race, the first one's copy is the one that everybody reads. `seconds`: what the stage cost, where `build`
    itself is not what took the time.
    """
    entry = room.storage.fetch(f"stages/{key}")
    if entry is not None:
        return entry
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="raybench-stage-") as temporary:
        folder = Path(temporary) / key
        folder.mkdir()
        result = dict(build(folder))
        result["seconds"] = time.perf_counter() - started if seconds is None else seconds
        (folder / RESULT).write_text(json.dumps(result, allow_nan=False))
        room.storage.publish(f"stages/{key}", folder)
    return read(room, key, "stage")


def read(room: Room, key: str, what: str) -> Path:
    """The folder of a stage that must be there; StageError when it is not (it was deleted under us)."""
    entry = room.storage.fetch(f"stages/{key}")
    if entry is None:
        raise StageError(what, f"{what} {key} is not in the stage cache of {room.storage.url}; run the sweep again")
    return entry


def result(folder: Path) -> dict[str, Any]:
    """What the stage in `folder` left to tell."""
    return json.loads((folder / RESULT).read_text())


def save_weights(model: nn.Module, folder: Path) -> str:
    """Write every parameter and buffer of `model` as safetensors; returns the file's SHA-256.

    Tied tensors are written as copies: on loading each name gets its own values, which ties them again in place.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def load_weights(model: nn.Module, folder: Path, device: torch.device) -> nn.Module:
    """Fill `model` with the weights of a stage, strictly, and move it to `device`."""
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    return model.to(device)
