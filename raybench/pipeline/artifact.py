"""Saves and loads pruned networks without pickles: `pruned.json` (kept channels) and `model.safetensors`."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors.torch import load
from torch import Tensor, nn

from raybench.datasets.facts import DataFacts
from raybench.errors import UserError, said
from raybench.groups import surgery
from raybench.groups.blocks import remove
from raybench.groups.trace import trace
from raybench.models.baked import baked
from raybench.models.build import build_model
from raybench.models.family import Member
from raybench.pipeline import cache
from raybench.pipeline.bounded import built_within, check_memory, check_numbers
from raybench.pipeline.network import example_of, from_library, layers_left
from raybench.pipeline.small import member_of
from raybench.provenance import installed
from raybench.selection.records import Cut
from raybench.storage.base import Storage
from raybench.storage.damage import set_aside
from raybench.storage.hashing import file_sha256
from raybench.storage.sealed import json_sha256
from raybench.sweep.kinds import TOKENS
from raybench.sweep.mistakes import dotted, explain, show
from raybench.sweep.modules import own_module
from raybench.sweep.trial import Trial
from raybench.tokens.attached import reduced, reducer_named

FORMAT = 2  # raise when pruned.json changes so that older readers can't read it
TOKEN_FORMAT = 3  # of networks that remove tokens
DEPTH_FORMAT = 4  # of networks without some of their blocks, or on images of another size than they are built for
READ = (1, 2, 3, 4)  # format 1 has no checksum
RECIPE = "pruned.json"
SHOWN = 3  # mistakes quoted in a message
MOST_SIDE, MOST_CLASSES, MOST_CHANNELS = 65_536, 10_000_000, 4096  # of images and labels of any data
MOST_BYTES = 64 << 20  # of pruned.json, and of the header of a file of weights
Position = Annotated[int, Field(ge=0, lt=2**31)]


class SavedTokens(BaseModel):
    """A token method as saved: its registered name and parameters, and how many tokens each block removes."""

    model_config = ConfigDict(frozen=True)

    method: str
    params: dict[str, Any]
    removed: tuple[Position, ...]


class Saved(BaseModel):
    """The fields of `pruned.json` that rebuild the network; the others are for people."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str
    model_params: dict[str, Any]
    prune: tuple[str, ...]
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    data: DataFacts
    kept: dict[str, tuple[Position, ...]]
    tokens: SavedTokens | None = None  # of a network that removes tokens
    blocks: tuple[str, ...] = ()  # modules that were removed whole, before the channels
    weights_sha256: str | None = None  # older files have none

    @field_validator("data")
    @classmethod
    def _possible(cls, data: DataFacts) -> DataFacts:
        most = {"image_size": MOST_SIDE, "built_for": MOST_SIDE, "classes": MOST_CLASSES, "in_channels": MOST_CHANNELS}
        for name, bound in most.items():
            found = getattr(data, name)
            for size in found if isinstance(found, tuple) else (found,):
                if size is not None and not 1 <= size <= bound:
                    raise ValueError(f"{name}: found {size}, expected 1 to {bound}")
        return data

    @field_validator("kept")
    @classmethod
    def _each_once(cls, kept: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        for name, units in kept.items():
            if len(set(units)) < len(units):
                raise ValueError(f"{name}: found a unit twice, expected each once")
        return kept


def publish(storage: Storage, trial: Trial, model: nn.Module, cut: Cut, data: DataFacts) -> str:
    """Save the pruned `model` of a cell as `artifacts/<trial_id>` in the storage; returns that key.

    A copy from an earlier run of the same cell, killed after this point, is kept if it holds the same network; another
    or a damaged one is set aside.
    """
    key = f"artifacts/{trial.trial_id}"
    with tempfile.TemporaryDirectory(prefix="raybench-artifact-") as temporary:
        folder = Path(temporary) / trial.trial_id
        folder.mkdir()
        save(folder, trial, model, cut, data)
        if why := _other_copy(storage.fetch(key), folder):
            set_aside(storage, key, why)
        storage.publish(key, folder)
    return key


def _other_copy(published: Path | None, folder: Path) -> str | None:
    """Why what is published can't stand for the network just saved in `folder`; None if it can."""
    if published is None:
        return "it is not complete"
    try:
        weights, own = (published / cache.WEIGHTS).read_bytes(), read_recipe(folder)
        sha256, found = hashlib.sha256(weights).hexdigest(), read_recipe(published)
    except (OSError, UserError) as error:
        return str(error)
    same = sha256 == found.weights_sha256 == own.weights_sha256
    same = same and (found.kept, found.tokens, found.blocks) == (own.kept, own.tokens, own.blocks)
    return None if same else "it holds another network than its cell's"


def save(folder: Path, trial: Trial, model: nn.Module, cut: Cut, data: DataFacts) -> None:
    """Write the pruned `model` into `folder`."""
    cache.save_weights(model, folder)
    dense = member_of(cut) if cut.network else Member(trial.model, trial.model_params)
    recipe = {
        "format": FORMAT,
        "trial_id": trial.trial_id,
        "base_key": trial.base_key,
        "model": dense.name,
        "model_params": dense.params,
        "prune": trial.prune,
        **trial.chosen,
        "data": {name: value for name, value in asdict(data).items() if name != "built_for" or value is not None},
        "kept": cut.kept,
        "weights_sha256": file_sha256(folder / cache.WEIGHTS),
        "macs": cut.macs,
        "params": cut.params,
        "versions": {name: installed(name) for name in ("raybench", "torch", "timm", "torch-pruning")},
    }
    if trial.kind == TOKENS:
        own = {"method": trial.importance.name, "params": trial.importance.params, "removed": cut.removed}
        recipe |= {"format": TOKEN_FORMAT, "tokens": own}
    if cut.blocks:
        recipe |= {"format": DEPTH_FORMAT, "blocks": cut.blocks}
    if data.built_for is not None:  # older readers would build the network for the size of the images
        recipe["format"] = DEPTH_FORMAT
    recipe["sha256"] = json_sha256(recipe, "sha256")
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1, allow_nan=False))


def load_pruned(path: str | Path, device: str | torch.device = "cpu", *, trust_code: bool = False) -> nn.Module:
    """Load a pruned network; its outputs are bit-identical to those of the network that was saved.

    A model of a plug-in must be registered first: import its file, or call `raybench.registry.add_plugin(file)`.

    Args:
        path: folder with `pruned.json` and `model.safetensors`: `artifacts/<trial_id>` of a sweep's storage, or what
            `raybench export` or `raybench prune` wrote.
        device: where the network is put.
        trust_code: whether the module of a network given as ``module:function`` may be imported and called. The name
            stands in `pruned.json`: say True only for a folder that you made or trust.

    Returns:
        The network in eval mode. It takes images (n, channels, size, size) as the dense network did.

    Raises:
        UserError: `path` is not such a folder, a file in it is damaged, the network is built by code that is not
            trusted, or the model's code has changed so that it no longer builds the network that was pruned.

    Example:
        >>> import tempfile, raybench
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     raybench.load_pruned(folder)
        Traceback (most recent call last):
            ...
        raybench.errors.UserError: ...: found no pruned.json; expected the folder of a pruned network ...
    """
    folder, recipe = Path(path), read_recipe(path)
    if not trust_code:
        _check_trusted(folder / RECIPE, recipe.model)
    try:
        model = baked(_dense(recipe, folder / cache.WEIGHTS))
        example = example_of(recipe.data, torch.device("cpu"))
        chosen, classes = recipe.prune, recipe.data.classes
        if recipe.tokens:
            reducer = reducer_named(recipe.tokens.method, recipe.tokens.params)
            model, _ = reduced(model, example, reducer, recipe.tokens.removed)
        else:
            remove(model, recipe.blocks)
            keep, only = recipe.keep, recipe.only
            if recipe.blocks:
                keep, only = layers_left(model, keep, only)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the cell that made the cut has warned already
                groups = trace(model, example, prune=chosen, classes=classes, protect=keep, only=only)
            surgery.apply(model, groups, recipe.kept)
    except UserError as error:
        raise UserError(f"{folder / RECIPE}: {error}") from error
    except Exception as error:  # what the file says goes into code that expects what raybench writes
        why = f"{said(error)}; the file was edited, or the network's code has changed"
        raise UserError(f"{folder / RECIPE}: this network can't be built again: {why}") from error
    _fill(model, folder / cache.WEIGHTS, recipe.weights_sha256)
    return model.to(torch.device(device)).eval()


def _dense(recipe: Saved, weights: Path) -> nn.Module:
    """The unpruned network. UserError if it can't be what `weights` were cut from, or this machine can't run it."""
    known, stored = from_library(recipe.model), weights.stat().st_size if weights.is_file() else 0
    if known:
        check_numbers(recipe.model_params)
    model = built_within(lambda: build_model(recipe.model, recipe.data, recipe.model_params), stored, twice=known)
    check_memory(model, recipe.data.image_shape)
    return model


def _check_trusted(file: Path, model: str) -> None:
    """UserError unless the code of `model` is installed here: registered networks and timm's."""
    if module := own_module(model):
        function = model.partition(":")[2]
        raise UserError(
            f"{file}: this network is built by {function!r} of the module {module!r}, which loading would import and "
            "run. If you trust it: raybench.load_pruned(..., trust_code=True), or raybench export --trust-code"
        )


def read_recipe(path: str | Path) -> Saved:
    """Read `pruned.json` in the folder `path`; UserError when it is missing or damaged."""
    file = Path(path) / RECIPE
    if not file.is_file():
        raise UserError(f"{path}: found no {RECIPE}; expected the folder of a pruned network (artifacts/<trial_id>)")
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise ValueError(f"found {size >> 20} MiB, expected at most {MOST_BYTES >> 20}")
        text = file.read_text("utf-8")
        content = json.loads(text, parse_constant=_refused)
    except (OSError, ValueError, RecursionError) as error:  # invalid UTF-8 and invalid JSON are ValueErrors
        raise UserError(f"{file}: can't be read: {error}; expected JSON, as raybench wrote it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: found {show(content)}, expected a mapping; the file is damaged")
    if content.get("format") not in READ:
        raise UserError(f"{file}: found format {content.get('format')!r}, this raybench reads formats 1 to {READ[-1]}")
    try:
        saved = Saved.model_validate_json(text, strict=True)
    except ValidationError as error:
        mistakes = [f"{dotted(e['loc'])}: {explain(dict(e), Saved)}" for e in error.errors(include_url=False)]
        raise UserError(f"{file}: {'; '.join(mistakes[:SHOWN])}; the file is damaged") from error
    if content["format"] > 1 and content.get("sha256") != json_sha256(content, "sha256"):
        raise UserError(f"{file}: found other content than was saved; the file was edited or is damaged")
    return saved


def _refused(name: str) -> NoReturn:
    raise ValueError(f"found {name}, which is no JSON")


def _fill(model: nn.Module, file: Path, sha256: str | None) -> None:
    """Fill `model` with the tensors in `file`; UserError when they aren't exactly those that were saved."""
    state = model.state_dict()
    most = sum(value.numel() * value.element_size() for value in state.values()) + MOST_BYTES  # with names and shapes
    try:
        if file.exists() and not file.is_file():
            raise ValueError("found no regular file")
        if (size := file.stat().st_size) > most:
            raise ValueError(f"found {size >> 20} MiB, expected at most {most >> 20} for this network")
        content = file.read_bytes()
        found = load(content)
    except Exception as error:  # damage, or a type of numbers that torch hasn't
        raise UserError(f"{file}: can't be read: {said(error)}; expected the weights of a pruned network") from error
    if different := _differences(found, state):
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise UserError(
            f"{file}: {'; '.join(different[:SHOWN])}{more}. One of the folder's files is not the one that was saved, "
            f"or the code of {type(model).__name__} has changed since"
        )
    found_sha256 = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found_sha256 != sha256:
        raise UserError(f"{file}: found other content (SHA-256 {found_sha256[:16]}) than was saved ({sha256[:16]})")
    model.load_state_dict(found, strict=True)


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Descriptions of tensors that are missing, unexpected, or of another type or shape."""
    described = {name: (_described(found.get(name)), _described(expected.get(name))) for name in [*expected, *found]}
    return [f"{name}: found {has}, expected {wants}" for name, (has, wants) in described.items() if has != wants]


def _described(tensor: Tensor | None) -> str:
    """Text like `float32 (16, 3)`, or `none`."""
    return "none" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
