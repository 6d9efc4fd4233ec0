"""What carries its checksum: published folders, with the SHA-256 of every file in one JSON, and small JSON objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raybench.storage.base import Storage
from raybench.storage.damage import set_aside
from raybench.storage.hashing import file_sha256
from raybench.storage.json_text import Check, is_text, read_object

FILES, OWN = "files", "content_sha256"  # keys in the JSON: file name -> SHA-256; SHA-256 of all other keys
SEAL = "sha256"  # key in an object alone: SHA-256 of all other keys

_verified: dict[Path, tuple[tuple[str, int, int, int], ...]] = {}  # folder -> its files when they were last hashed


class Damaged(Exception):
    """A file is not what was written. The text says which and why."""


def write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write `content` as the JSON file `name` with the checksums of all files that are in `folder` now."""
    whole = {**content, FILES: {path.name: file_sha256(path) for path in sorted(folder.iterdir())}}
    (folder / name).write_text(json.dumps({**whole, OWN: json_sha256(whole, OWN)}, allow_nan=False))


def read(folder: Path, name: str) -> dict[str, Any]:
    """The content of the JSON file `name` that `write` wrote, checksums included. Raises Damaged."""
    try:
        content: dict[str, Any] = json.loads((folder / name).read_bytes())
        own = content[OWN]
        if own == json_sha256(content, OWN):
            return content
        why = "found other content than was written"
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        why = f"can't be read: {type(error).__name__}: {error}"
    raise _damaged(folder, f"{name}: {why}")


def content_of(folder: Path, name: str, file: str) -> bytes:
    """The bytes of `file`, checked as they were just read. Raises Damaged."""
    expected = read(folder, name)[FILES].get(file)
    try:
        content = (folder / file).read_bytes()
    except OSError as error:
        raise _damaged(folder, f"{file}: can't be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise _damaged(folder, f"{file}: found other content than was written")
    return content


def intact(storage: Storage, key: str, name: str) -> Path | None:
    """The folder of the entry `key` if every checksum is right; None if there is none, or after it was set aside."""
    entry = storage.fetch(key)
    why = "it is not complete" if entry is None else _damage(entry, name)
    if why and storage.has(key):  # published meanwhile, or only this machine's copy of an object is damaged
        entry = storage.fetch(key, fresh=True)
        why = "it is not complete" if entry is None else _damage(entry, name)
    if why is None:
        return entry
    set_aside(storage, key, why)
    return None


def create_object(storage: Storage, key: str, content: Mapping[str, Any]) -> None:
    """Write `content` with its checksum as the file `key`; the first writer's is kept."""
    storage.create(key, json.dumps({**content, SEAL: json_sha256(content, SEAL)}).encode())


def read_sealed(storage: Storage, key: str, fields: Mapping[str, Check], again: str) -> Any:
    """What `create_object` wrote as the file `key`; None if there is none, or after a damaged one was set aside.

    Args:
        storage: holds the file.
        key: its key.
        fields: name -> check of what must be in it.
        again: what happens after damage, for the message: ``measured again``.
    """
    data = storage.read(key)
    if data is None:
        return None
    content = read_object(data, {**fields, SEAL: is_text})
    if content is None or content[SEAL] != json_sha256(content, SEAL):
        set_aside(storage, key, f"its content is not what was written, so it is {again}")
        return None
    return content


def json_sha256(content: Mapping[str, Any], leave_out: str) -> str:
    """SHA-256 of a JSON object, the same in any order and layout, without the key `leave_out`."""
    own = {key: value for key, value in content.items() if key != leave_out}
    return hashlib.sha256(json.dumps(own, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _damage(folder: Path, name: str) -> str | None:
    """What is wrong with `folder`; None if nothing is. Its files are hashed once as long as they don't change."""
    try:
        stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
        state = tuple((file, stat.st_size, stat.st_mtime_ns, stat.st_ino) for file, stat in stats)
        if _verified.get(folder) == state:
            return None
        for file, sha256 in read(folder, name)[FILES].items():
            if not (folder / file).is_file():
                return f"{file} is missing"
            if file_sha256(folder / file) != sha256:
                return f"{file}: found other content than was written"
    except (OSError, Damaged) as error:
        return str(error)
    _verified[folder] = state
    return None


def _damaged(folder: Path, why: str) -> Damaged:
    """The error of a damaged file; the folder is hashed again when `intact` is next called."""
    _verified.pop(folder, None)
    return Damaged(why)
