"""Requests for the objects below one prefix of a bucket, through obstore. Names are `/`-separated paths.

All methods raise UserError where the user must act and OSError for what may pass (see `clients.errors`). A forked
process must not use the client of its parent: its requests would never be answered.
"""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from raybench.storage.clients import errors
from raybench.storage.range_reader import RangeReader

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import GCSStore, S3Store

AT_ONCE = 4 << 20  # bytes: one request for a smaller object costs less than several ranges
RANGE = 1 << 20  # bytes: the smallest range read of a larger one
TRIES = 3  # of a conditional PUT without an answer
CONFLICTS = 50  # answers in a row that contradict each other; with the pauses between them, some ten seconds
WRITER = "raybench-writer"  # metadata of a created object: a unique id of the call that created it


class Bucket:
    """The objects that `store` serves; `url` and `bucket` are for messages."""

    def __init__(self, url: str, bucket: str, store: S3Store | GCSStore) -> None:
        self._url, self._bucket, self._store = url, bucket, store

    def get(self, name: str) -> bytes | None:
        """Content of `name`, None if there is none. One request."""
        with suppress(FileNotFoundError), self._errors():
            return self._store.get(name).bytes().to_bytes()
        return None

    def open(self, name: str) -> BinaryIO | None:
        """A seekable reader of `name`; None if there is none. Reads a small object at once, a large one by ranges."""
        with suppress(FileNotFoundError), self._errors():
            found = self._store.get(name)
            if found.meta["size"] <= AT_ONCE:
                return io.BytesIO(found.bytes().to_bytes())
            return io.BufferedReader(RangeReader(partial(self._range, name), found.meta["size"]), RANGE)
        return None

    def has(self, name: str) -> bool:
        """Whether `name` exists."""
        with suppress(FileNotFoundError), self._errors():
            self._store.head(name)
            return True
        return False

    def create(self, name: str, data: bytes) -> bool:
        """Write `name` with a conditional PUT; False if it already existed."""
        from obstore.exceptions import AlreadyExistsError

        writer, failures, conflicts = uuid.uuid4().hex, 0, 0
        while True:
            try:
                with self._errors():
                    self._store.put(name, data, mode="create", attributes={WRITER: writer})
                return True
            except AlreadyExistsError:
                holder = self._writer(name)
                if holder is not None:
                    return holder == writer  # True if an earlier try wrote it and only the answer was lost
                # else S3 reported a conflict with a PUT or delete under way, and expects another try
                conflicts += 1
                if conflicts == CONFLICTS:
                    raise OSError(f"{name}: the store says that it exists, and that it doesn't") from None
                time.sleep(0.01 * conflicts)
            except OSError:  # obstore retries error answers, but a conditional PUT not after a timeout
                failures += 1
                if failures == TRIES:
                    raise

    def put(self, name: str, data: bytes | Path) -> None:
        """Write `name` atomically, from memory or a local file; a large one in parallel parts."""
        with self._errors():
            self._store.put(name, data)

    def download(self, name: str, target: Path) -> None:
        """Stream `name` to a local file, by one request. FileNotFoundError if it does not exist."""
        with self._errors(), target.open("wb") as file:
            for chunk in self._store.get(name).stream(min_chunk_size=AT_ONCE):
                file.write(chunk)

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens if it does not exist."""
        with suppress(FileNotFoundError), self._errors():
            self._store.delete(name)

    def list(self, prefix: str | None) -> Sequence[ObjectMeta]:
        """All objects below the folder `prefix`, without the empty ones with which some tools mark a folder."""
        with self._errors():
            found = self._store.list(prefix).collect()
        folders = {"", prefix, *(each["path"].rpartition("/")[0] for each in found)}
        return [each for each in found if each["size"] or each["path"] not in folders]

    def _range(self, name: str, start: int, stop: int) -> bytes:
        with self._errors():
            return self._store.get_range(name, start=start, end=stop).to_bytes()

    def _writer(self, name: str) -> str | None:
        """The id of the call that created `name`, empty if unknown; None if there is no such object."""
        with suppress(FileNotFoundError), self._errors():
            return self._store.get(name, options={"head": True}).attributes.get(WRITER, "")
        return None

    def _errors(self) -> AbstractContextManager[None]:
        return errors(self._url, self._bucket)
