"""Files in the user's cache folder, kept between commands: what is known of a folder of data, decoded pictures."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

UNFINISHED = ".part"  # ending of a file that is being written


def cache_folder(kind: str) -> Path:
    """The folder for one kind of knowledge, there or not."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raybench" / kind


def cache_name(root: Path) -> str:
    """The name of the file about the folder `root`, wherever links lead."""
    return f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]}.json"


def write_cache(file: Path, content: Any) -> None:
    """Write `content` in one move. A cache that can't be written costs time, nothing else."""
    with suppress(OSError):
        write_whole(file, [json.dumps(content).encode()])


def write_whole(file: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write `parts` one after the other in one move; makes the folder. OSError leaves nothing behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.writelines(parts)
        os.replace(temporary, file)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
