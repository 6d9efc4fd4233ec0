"""The stage cache: results that several cells share, computed once and stored as `stages/<key>/`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import nn

from raybench.errors import StageLost
from raybench.pipeline import patches
from raybench.pipeline.context import StageContext
from raybench.storage import sealed

RESULT = "result.json"
WEIGHTS = "model.safetensors"


def build_once(
    context: StageContext, key: str, build: Callable[[Path], Mapping[str, Any]], seconds: float | None = None
) -> Path:
    """The folder of stage `key`, from the cache or, if it isn't there, built by `build` and published.

    `build` gets an empty temporary folder for its files and returns the content of ``result.json``. When two writers
    race, the first one's copy is used by all. `seconds`: time of the stage, if it isn't that of `build`. A damaged copy
    is set aside and built again.
    """
    entry = _intact(context, key)
    if entry is not None:
        return entry
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="raybench-stage-") as temporary:
        folder = Path(temporary) / key
        folder.mkdir()
        result = dict(build(folder))
        patches.check("build")
        result["seconds"] = time.perf_counter() - started if seconds is None else seconds
        sealed.write(folder, RESULT, result)
        context.storage.publish(f"stages/{key}", folder)
    return read(context, key, "stage")


def read(context: StageContext, key: str, what: str) -> Path:
    """The folder of a stage that must be in the cache; StageLost when it is not there, or was damaged."""
    entry = _intact(context, key)
    if entry is None:
        raise StageLost(what, f"{what} {key} is not in the stage cache of {context.storage.url}; it is made again")
    return entry


def require(context: StageContext, *keys: str | None) -> None:
    """StageLost unless all stages `keys` are in the cache and intact; damaged ones are all set aside before."""
    if lost := [key for key in keys if key is not None and _intact(context, key) is None]:
        raise StageLost("cache", f"not in the stage cache of {context.storage.url}: {', '.join(lost)}; made again")


def result(folder: Path) -> dict[str, Any]:
    """The ``result.json`` of the stage in `folder`. StageLost when it is damaged."""
    try:
        return sealed.read(folder, RESULT)
    except sealed.Damaged as error:
        raise StageLost("cache", str(error)) from error


def content_of(folder: Path, name: str) -> bytes:
    """A file of the stage in `folder`. StageLost unless its bytes, as just read, are those that were written."""
    try:
        return sealed.content_of(folder, RESULT, name)
    except sealed.Damaged as error:
        raise StageLost("cache", str(error)) from error


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write every parameter and buffer of `model` as safetensors.

    Tied tensors are written as copies; loading fills the tied tensors of a network in place, so they stay tied.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)


def fill_from_stage(model: nn.Module, folder: Path, device: torch.device) -> nn.Module:
    """Fill `model` with the weights of a stage, strictly, and move it to `device`. StageLost when they are damaged."""
    model.load_state_dict(load(content_of(folder, WEIGHTS)), strict=True)
    return model.to(device)


def _intact(context: StageContext, key: str) -> Path | None:
    return sealed.intact(context.storage, f"stages/{key}", RESULT)
