"""A storage that passes every call to another one; subclasses wait for it, or refuse to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from raybench.storage.base import Names, Storage

P = ParamSpec("P")
T = TypeVar("T")


class Wrapped:
    """Calls of the storage protocol, for `inner`. Subclasses override `reading` and `writing`.

    Args:
        inner: the storage that does the work.
    """

    def __init__(self, inner: Storage) -> None:
        self.inner, self.url = inner, inner.url

    def reading(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Make a call that changes nothing."""
        return call(*args, **options)

    def writing(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Make a call that changes the storage."""
        return call(*args, **options)

    def read(self, key: str) -> bytes | None:
        """See `Storage`; the others likewise."""
        return self.reading(self.inner.read, key)

    def open(self, key: str) -> BinaryIO | None:
        """A reader of `key`."""
        return self.reading(self.inner.open, key)

    def create(self, key: str, data: bytes, *, durable: bool = True) -> bool:
        """Write `key` if it does not exist."""
        return self.writing(self.inner.create, key, data, durable=durable)

    def replace(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Write `key`."""
        self.writing(self.inner.replace, key, data, durable=durable)

    def list(self, prefix: str) -> Names:
        """Keys below `prefix`."""
        return self.reading(self.inner.list, prefix)

    def not_listed(self, prefix: str) -> str:
        """Why what lies below `prefix` can't be listed."""
        return self.inner.not_listed(prefix)

    def delete(self, key: str) -> None:
        """Remove a file or an entry."""
        self.writing(self.inner.delete, key)

    def publish(self, key: str, folder: Path) -> bool:
        """Move a finished folder to `key`."""
        return self.writing(self.inner.publish, key, folder)

    def fetch(self, key: str, *, fresh: bool = False) -> Path | None:
        """A local folder with the entry `key`."""
        return self.reading(self.inner.fetch, key, fresh=fresh)

    def rename(self, key: str, new: str) -> bool:
        """Move a file or an entry."""
        return self.writing(self.inner.rename, key, new)

    def has(self, key: str) -> bool:
        """Whether `key` is there."""
        return self.reading(self.inner.has, key)

    def leftovers(self, age: float) -> Names:
        """Names of unfinished writes."""
        return self.reading(self.inner.leftovers, age)

    def discard(self, name: str) -> None:
        """Remove one of the `leftovers`."""
        self.writing(self.inner.discard, name)
