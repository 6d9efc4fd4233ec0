"""The storage protocol: keys, which are `/`-separated paths, to bytes, and published folders."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

Names: TypeAlias = list[str]  # inside the classes below, `list` is their method


class Storage(Protocol):
    """What raybench needs of a store.

    A key is a file, or an entry: a folder that was published at once and never changes.
    """

    url: str

    def read(self, key: str) -> bytes | None:
        """Content of `key`, None if there is none."""

    def open(self, key: str) -> BinaryIO | None:
        """A seekable reader of `key` that fetches only the parts that are read; None if there is none."""

    def create(self, key: str, data: bytes, *, durable: bool = True) -> bool:
        """Write `key` atomically if it does not exist; False if it already did. Of several writers one gets True.

        `durable`: wait until the disk has it. Otherwise a machine that loses power may leave it empty or without it.
        """

    def replace(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write `key` atomically, whether or not it exists; `durable` as in `create`."""

    def list(self, prefix: str) -> Names:
        """Keys below the folder `prefix`, sorted, without files that are being written."""

    def not_listed(self, prefix: str) -> str:
        """Why what lies below the folder `prefix` can't be listed, in a sentence; empty if it can, or isn't there."""

    def delete(self, key: str) -> None:
        """Remove a file or an entry; nothing happens if there is none."""

    def publish(self, key: str, folder: Path) -> bool:
        """Move the finished local `folder` to `key` atomically; False if another writer was first, whose copy stays."""

    def fetch(self, key: str, *, fresh: bool = False) -> Path | None:
        """A local folder with the published entry `key`, to be read only; None if there is none.

        `fresh`: don't use a local copy that was made earlier.
        """

    def rename(self, key: str, new: str) -> bool:
        """Move a file or an entry, also an incomplete one, to the unused key `new`; False if there is nothing."""

    def has(self, key: str) -> bool:
        """Whether `key` is a file or a published entry."""

    def leftovers(self, age: float) -> Names:
        """Names of unfinished writes of killed processes, not modified for `age` seconds, sorted."""

    def discard(self, name: str) -> None:
        """Remove one of the `leftovers`; nothing happens if it was removed already."""


def key_parts(key: str) -> list[str]:
    """The names in `key`. ValueError unless it consists of names joined by ``/`` that do not start with a dot."""
    parts = [part for part in key.split("/") if part]
    if not parts or any(part.startswith(".") for part in parts):
        raise ValueError(f"storage key {key!r}: expected names joined by '/', none of them starting with a dot")
    return parts
