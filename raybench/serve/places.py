"""Files, folders and modules that a form may name: those in the allowed folders, wherever links lead."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from raybench.errors import UserError
from raybench.sweep.modules import find_module


def allowed_path(what: str, text: str, allowed: Sequence[Path], *, folder: bool = False) -> Path:
    """The file (or `folder`) that `text` names, with links resolved; a relative one is looked for in each folder.

    Args:
        what: name of the field, for the message.
        text: what was typed.
        allowed: the folders.
        folder: whether a folder is wanted.

    Raises:
        UserError: there is no such file in an allowed folder. One elsewhere is reported the same way, so that the
            message says nothing about other places.
    """
    for root in map(Path.resolve, allowed):
        try:
            found = (root / text).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            continue
        if found.is_relative_to(root) and (found.is_dir() if folder else found.is_file()):
            return found
    kind = "folder" if folder else "file"
    raise UserError(f"{what}: found {text!r}, expected a {kind} in {_places(allowed)}")


def allowed_module(model: str, allowed: Sequence[Path]) -> Path:
    """The allowed folder from which the module of a model ``module:function`` is imported.

    Raises:
        UserError: no such module is in an allowed folder, or Python would import another one of that name.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", model):
        raise UserError(f"own model: found {model!r}, expected module:function, such as nets.mine:build")
    module = model.partition(":")[0]
    importlib.invalidate_caches()  # or files written since the last look would not be found
    for root in map(Path.resolve, allowed):
        try:
            spec = find_module(module, root)
            file = Path(spec.origin).resolve() if spec and spec.has_location and spec.origin else None
        except (OSError, ValueError):
            continue
        if file is not None and file.is_relative_to(root):
            return root
    raise UserError(f"own model: found {model!r}, expected a module in {_places(allowed)}")


def _places(allowed: Sequence[Path]) -> str:
    names = " or ".join(str(one) for one in allowed)
    return names or "a folder given with --allow when the server was started; there is none"


def inside(root: Path, file: Path) -> bool:
    """Whether a file is in a folder, wherever links lead."""
    return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root))
