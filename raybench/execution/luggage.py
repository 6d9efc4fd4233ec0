"""Files that a sweep names on this machine: weights travel with the job; what can't travel is refused by name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from raybench.errors import UserError
from raybench.spec.axes import ModelAxis
from raybench.spec.sweep import Sweep

LIMIT = 400 << 20  # bytes of weights; Ray takes 500 MiB a job, and its head holds them in memory
FOLDER = "weights"


def weights_of(sweep: Sweep, mounted: Sequence[Path]) -> dict[str, Path]:
    """Name in the job's folder -> file, for every weights file that doesn't lie below `mounted` folders.

    Names come from the contents, so that they are the same from whatever machine the sweep is sent. UserError when the
    files are too big to travel.
    """
    found: dict[str, Path] = {}
    for path in sorted({Path(model.weights) for model in _models(sweep) if _is_file(model)}):
        if not _below(path, mounted):
            found[f"{FOLDER}/{sha256(path)[:16]}{path.suffix}"] = path
    total = sum(path.stat().st_size for path in found.values())
    if total > LIMIT:
        biggest = max(found.values(), key=lambda path: path.stat().st_size)
        raise UserError(
            f"weights: found {total >> 20} MiB of files, {biggest} the biggest; expected at most {LIMIT >> 20} MiB, "
            "which is what travels with a job. Put them in a folder that every node mounts, and say --mounted FOLDER"
        )
    return found


def check_data(sweep: Sweep, file: Path, mounted: Sequence[Path]) -> None:
    """UserError for a data root beside the sweep's `file` or below the current folder: the nodes won't have it."""
    for name, root in sweep.data_roots.items():
        if _below(Path(root), [file.absolute().parent, Path.cwd()]) and not _below(Path(root), mounted):
            raise UserError(
                f"data_roots: {name}: found {root}, which lies on this machine; data doesn't travel. Name the folder "
                "that every node has, or say --mounted FOLDER when every node mounts this one"
            )


def repacked(sweep: Sweep, names: dict[str, Path]) -> Sweep:
    """`sweep` with the files of `weights_of` under their names in the job's folder."""
    by_path = {str(path): name for name, path in names.items()}

    def moved(models: Sequence[ModelAxis]) -> tuple[ModelAxis, ...]:
        return tuple(m.model_copy(update={"weights": by_path.get(m.weights, m.weights)}) for m in models)

    include = tuple(
        one.model_copy(update={"models": moved(one.models)}) if one.models else one for one in sweep.include
    )
    return sweep.model_copy(update={"models": moved(sweep.models), "include": include})


def sha256(file: Path) -> str:
    """Of the content."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _models(sweep: Sweep) -> Iterator[ModelAxis]:
    yield from sweep.models
    for one in sweep.include:
        yield from one.models or ()


def _is_file(model: ModelAxis) -> bool:
    return model.weights not in ("trained", "pretrained")


def _below(path: Path, folders: Sequence[Path]) -> bool:
    """Told from the names, `..` taken out: the folders may be the nodes' and not exist here."""
    return any(_plain(path).is_relative_to(_plain(folder)) for folder in folders)


def _plain(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
