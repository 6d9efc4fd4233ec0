"""Walks a dataset's folder: linked folders are followed, what tools leave behind is not, the rest is counted."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from raybench.errors import RaybenchWarning, UserError, counted

# Folders that editors, file managers and archive programs leave beside the data; hidden ones count, too.
LEFT_BY_TOOLS = {"__pycache__", "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "images", "labels", "annotations"}
SHOWN = 5  # kinds that a line names


def is_left_by_tools(name: str) -> bool:
    """Whether a folder (or a file) called `name` is none of the user's own: hidden, or made by a tool."""
    return name.startswith(".") or name.lower() in LEFT_BY_TOOLS


def folders_in(root: Path) -> list[str]:
    """The user's own folders directly in `root`, sorted."""
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_left_by_tools(entry.name))


def is_flat(root: Path) -> bool:
    """Whether the folders in `root` are classes rather than splits."""
    names = folders_in(root)
    return len(names) > 1 and not SPLITS & {name.lower() for name in names}


def class_folders(root: Path) -> tuple[str, ...]:
    """The folders of the splits of class folders in `root`; ("",) where the classes lie in `root` itself.

    Raises:
        UserError: there are neither train/ and val/ nor class folders.
    """
    names: tuple[str, ...] = ("train", "val", "test") if (root / "test").is_dir() else ("train", "val")
    missing = [name for name in names[:2] if not (root / name).is_dir()]
    if not missing:
        return names
    if not is_flat(root):
        found = ", ".join(f"{name}/" for name in folders_in(root)[:5]) or "no folders"
        above = root.parent
        near = f". {above} has class folders: is that meant?" if found == "no folders" and is_flat(above) else ""
        lacking = " and ".join(f"{name}/" for name in missing)
        raise UserError(
            f"dataset 'imagefolder': found no {lacking} in {root} (there: {found}); expected "
            "train/CLASS/* and val/CLASS/*, or class folders in it, which are split by a seed" + near
        )
    return ("",)


def files_below(folder: Path, without: Collection[Path] = ()) -> Iterator[Path]:
    """Every file below `folder`, linked folders too, each folder once on a way down.

    Hidden files and what lies in hidden folders and in those that tools leave behind is not among them.

    Args:
        folder: where to start.
        without: resolved folders that are left out with all that lies below them.

    Raises:
        PermissionError: a folder may not be read.
    """
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(os.fspath(folder), ())]
    while pending:
        path, above = pending.pop()
        try:
            own = os.stat(path)
            entries = list(os.scandir(path))
        except PermissionError:
            raise  # what lies in it would be missing without a word
        except OSError:
            continue  # a dead link; the data's fingerprint counts them
        if (identity := (own.st_dev, own.st_ino)) in above:
            continue
        for entry in entries:
            if is_left_by_tools(entry.name):
                continue
            if entry.is_dir():
                if not without or Path(entry.path).resolve() not in without:
                    pending.append((entry.path, (*above, identity)))
            elif entry.is_file():
                yield Path(entry.path)


def is_file(path: Path) -> bool:
    """Whether `path` is a file; not where it is a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def counted_by_ending(files: Iterable[Path]) -> Counter[str]:
    """How many of `files` have each ending: ``.txt files``."""
    return Counter(f"{file.suffix.lower()} files" if file.suffix else "files without an ending" for file in files)


def listed(counts: Mapping[str, int]) -> str:
    """Counts as text, the largest first: ``3 .txt files, 1 .heic files and 2 others``."""
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} {what}" for what, count in found[:SHOWN])
    rest = sum(count for _, count in found[SHOWN:])
    return f"{shown} and {counted(rest, 'other')}" if rest else shown


def shared_folders(splits: Mapping[str, Path], dataset: str) -> str:
    """A line about splits (name -> folder) that are the same folder, links resolved; empty when none are."""
    names: dict[Path, list[str]] = {}
    for name, folder in splits.items():
        names.setdefault(folder.resolve(), []).append(name)
    same = [f"{' and '.join(found)} are the same folder {folder}" for folder, found in names.items() if len(found) > 1]
    if not same:
        return ""
    return f"dataset {dataset!r}: {'; '.join(same)}: figures are measured on images that were trained on"


@lru_cache(maxsize=64)  # every stage opens the data again
def warn_once(line: str) -> None:
    """Warn with `line`, once a process; an empty one says nothing."""
    if line:
        warnings.warn(line, RaybenchWarning, stacklevel=3)
