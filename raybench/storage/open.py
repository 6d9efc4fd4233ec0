"""From what people type after ``--storage`` to a Storage."""

from __future__ import annotations

import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raybench.errors import UserError
from raybench.storage.base import Storage
from raybench.storage.local import LocalStorage

OBJECT_STORES = ("s3", "gs")


def open_storage(url: str | Path) -> Storage:
    """The storage at `url`: a path, ``file://``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

    Nothing is written until something is stored. Raises UserError for another scheme, a path that is a file, a bucket
    that isn't there or isn't ours, and a missing client library (each is an extra of its own).
    """
    text = str(url)
    scheme, separator, _ = text.partition("://")
    if separator and scheme in OBJECT_STORES:
        from raybench.storage.objects import ObjectStorage

        return ObjectStorage(text)
    if separator and scheme != "file":
        raise UserError(
            f"storage {text!r}: found scheme {scheme!r}; expected a directory, file:///directory, s3://bucket/prefix "
            "or gs://bucket/prefix"
        )
    path = Path(unquote(urlsplit(text).path)) if separator else Path(text).expanduser()
    if path.is_file():
        raise UserError(f"storage {text!r}: found a file; expected a directory")
    return LocalStorage(path)


def open_existing(url: str | Path) -> Storage:
    """`open_storage`, for verbs that only read: UserError also for a local folder that isn't there."""
    storage = open_storage(url)
    if isinstance(storage, LocalStorage) and not storage.root.is_dir():
        raise UserError(f"storage {str(url)!r}: there is no such folder; expected the --storage of a run")
    return storage


def check_writable(storage: Storage) -> None:
    """Write and remove one small key, so that a sweep that can't keep its results says so before it starts.

    Raises UserError when it can't be.
    """
    key = f"probe/{uuid.uuid4().hex}"
    try:
        storage.create(key, b"")
        storage.delete(key)
    except OSError as error:
        raise UserError(f"storage {storage.url!r}: can't be written ({error})") from error
