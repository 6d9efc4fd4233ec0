"""Whether data in an allowed folder stay in the allowed folders: links, YAML files and lists may lead elsewhere."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from raybench import registry
from raybench.errors import UserError
from raybench.sweep.data_roots import called

NAMES = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def check_stays(dataset: str, params: Mapping[str, Any], root: Path, allowed: Sequence[Path]) -> None:
    """Check all that the dataset in the folder `root` would read.

    Args:
        dataset: a registered name.
        params: of the dataset.
        root: its folder, links resolved, in one of `allowed`.
        allowed: the folders.

    Raises:
        UserError: something in it leads out of the allowed folders. It names what is in the folder, not where it leads.
    """
    folders = tuple(map(Path.resolve, allowed))
    facts = registry.dataset.entry(dataset).facts
    named = list(_elsewhere(facts, root, params))
    if not all(_within(place, folders) for place in named):
        raise _leads_out(root, f"{params.get('data', 'its YAML')} or a list that it names")
    for place in (root, *named):
        if (link := _link_out(place, folders)) is not None:
            raise _leads_out(root, f"the link {link}")
    for file in sorted(root.glob(str(facts["names_files"]))) if facts.get("names_files") else ():
        seen = file.stat()
        names = _names_outside(file, seen.st_mtime_ns, seen.st_size)
        if not all(_within(root / "images" / name, folders) for name in names):  # whichever folder of images in it
            raise _leads_out(root, f"a file name in {file.relative_to(root)}")


def _leads_out(root: Path, what: str) -> UserError:
    return UserError(f"data folder: {root}: {what} leads out of the folders given with --allow")


def _within(place: Path, folders: Sequence[Path]) -> bool:
    """Whether a place is in one of the folders, wherever links lead."""
    real = Path(os.path.realpath(place))
    return any(real.is_relative_to(folder) for folder in folders)


def _elsewhere(facts: Mapping[str, Any], root: Path, params: Mapping[str, Any]) -> Iterator[Path]:
    """What the dataset's registration says that it reads outside `root`."""
    if facts.get("elsewhere"):
        yield from called(facts["elsewhere"], root, params)


def _link_out(place: Path, folders: Sequence[Path]) -> str | None:
    """A link at or below `place` that leads out of the folders; None without one. Links inside are followed."""
    pending, seen = [place], set()
    while pending:
        here = pending.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        if not _within(here, folders):
            return str(here.relative_to(place)) if here != place else here.name
        if not here.is_dir():
            continue
        with os.scandir(here) as entries:
            pending += [Path(one.path) for one in entries if one.is_symlink() or one.is_dir(follow_symlinks=False)]
    return None


@lru_cache(maxsize=64)
def _names_outside(file: Path, changed: int, size: int) -> tuple[str, ...]:
    """Names of image files in a JSON of annotations that may lead out of their folder; kept while it is the same."""
    if not size:
        return ()
    found = set()
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in NAMES.finditer(content):
            text = match[1]
            if text.startswith(b'"/') or b".." in text or b"\\" in text:
                with suppress(ValueError):  # the plan says what is wrong with the file
                    found.add(json.loads(text))
    return tuple(sorted(found))
