"""One root for everything a sweep leaves behind: stage cache, checkpoints, results. Keys are `/`-separated paths."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol


class Storage(Protocol):
    """What raybench needs of a store. A local or shared directory today; object stores fit the same walls."""

    url: str

    def read(self, key: str) -> bytes | None:
        """Content of `key`, None when there is none."""

    def open(self, key: str) -> BinaryIO | None:
        """A seekable reader of `key` that fetches only what is read of it; None when there is none."""

    def create(self, key: str, data: bytes) -> bool:
        """Write `key` whole and at once if it does not exist; False when it already did (write-once, race-free)."""

    def replace(self, key: str, data: bytes) -> None:
        """Write `key` whole and at once, whatever was there."""

    def list(self, prefix: str) -> list[str]:
        """Keys below `prefix`, sorted; files being written are not among them."""

    def delete(self, key: str) -> None:
        """Remove a key, or an entry folder; nothing happens when there is none."""

    def publish(self, key: str, folder: Path) -> bool:
        """Move the finished local `folder` to `key` at once; False when another writer was first (its copy stays)."""

    def fetch(self, key: str) -> Path | None:
        """A local, readable folder with the published entry `key`; None when there is none."""

    def has(self, key: str) -> bool:
        """Whether `key` is a file or a published entry."""

    def leftovers(self, age: float) -> list[str]:
        """Names of unfinished writes that nobody has touched for `age` seconds, sorted: killed processes left them."""

    def discard(self, name: str) -> None:
        """Remove one of the `leftovers`; nothing happens when it is gone."""


def key_parts(key: str) -> list[str]:
    """The names of `key`; ValueError unless it is names joined by ``/``, none of them starting with a dot."""
    parts = [part for part in key.split("/") if part]
    if not parts or any(part.startswith(".") for part in parts):
        raise ValueError(f"storage key {key!r}: expected names joined by '/', none of them starting with a dot")
    return parts
