"""Small JSON files in the user's cache folder: what is known of a folder of data, kept between commands."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any


def cache_folder(kind: str) -> Path:
    """The folder for one kind of knowledge, there or not."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raybench" / kind


def cache_name(root: Path) -> str:
    """The name of the file about the folder `root`, wherever links lead."""
    return f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]}.json"


def write_cache(file: Path, content: Any) -> None:
    """Write `content` in one move. A cache that can't be written costs time, nothing else."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w") as opened:
            json.dump(content, opened)
        os.replace(temporary, file)
