"""Local files that a sweep names: weights are sent with the job, files that can't be sent are an error."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raybench.errors import UserError
from raybench.storage.hashing import file_sha256
from raybench.sweep.axes import ModelAxis
from raybench.sweep.sweep import Sweep

LIMIT = 400 << 20  # bytes of weights; Ray accepts 500 MiB a job and keeps them in the head's memory
FOLDER = "weights"


def weights_of(sweep: Sweep, mounted: Sequence[Path]) -> dict[str, Path]:
    """Name in the job's folder -> file, for every weights file that is not below one of the `mounted` folders.

    Names are hashes of the contents, so they don't depend on the machine that submits. UserError when the files
    together exceed LIMIT.
    """
    found: dict[str, Path] = {}
    source = [sweep.base.file] if sweep.base and sweep.base.dataset is None else []
    for path in sorted({*source, *(Path(model.weights) for model in _models(sweep) if _is_file(model))}):
        if not _below(path, mounted):
            found[f"{FOLDER}/{file_sha256(path)[:16]}{path.suffix}"] = path
    total = sum(path.stat().st_size for path in found.values())
    if total > LIMIT:
        biggest = max(found.values(), key=lambda path: path.stat().st_size)
        raise UserError(
            f"weights: found {total >> 20} MiB of files, {biggest} the biggest; expected at most {LIMIT >> 20} MiB, "
            "which is what can be sent with a job. Put them in a folder that every node mounts and add --mounted FOLDER"
        )
    return found


def check_data(sweep: Sweep, file: Path, mounted: Sequence[Path]) -> None:
    """UserError for a data root beside the sweep's `file` or below the current folder: nodes don't have that folder."""
    for name, root in sweep.data_roots.items():
        if _below(Path(root), [file.absolute().parent, Path.cwd()]) and not _below(Path(root), mounted):
            raise UserError(
                f"data_roots: {name}: found {root}, a folder of this machine; data is not sent with a job. Name a "
                "folder that every node has, or add --mounted FOLDER when every node mounts this one"
            )


def repacked(sweep: Sweep, names: dict[str, Path]) -> Sweep:
    """`sweep` with each file of `weights_of` replaced by its name in the job's folder."""
    by_path = {str(path): name for name, path in names.items()}

    def moved(models: Sequence[ModelAxis]) -> tuple[ModelAxis, ...]:
        return tuple(m.model_copy(update={"weights": by_path.get(m.weights, m.weights)}) for m in models)

    include = tuple(
        item.model_copy(update={"models": moved(item.models)}) if item.models else item for item in sweep.include
    )
    changed: dict[str, Any] = {"models": moved(sweep.models), "include": include}
    if sweep.base and sweep.base.dataset is None:
        own = sweep.base.file
        changed["base"] = sweep.base.model_copy(update={"from_": by_path.get(str(own), str(own))})
    return sweep.model_copy(update=changed)


def _models(sweep: Sweep) -> Iterator[ModelAxis]:
    yield from sweep.models
    for item in sweep.include:
        yield from item.models or ()


def _is_file(model: ModelAxis) -> bool:
    return model.weights not in ("trained", "pretrained")


def _below(path: Path, folders: Sequence[Path]) -> bool:
    """By names alone, with `..` resolved: the folders may exist on the nodes only."""
    return any(_normal(path).is_relative_to(_normal(folder)) for folder in folders)


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
