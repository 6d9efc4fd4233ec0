"""Opens the storage at an address, as given to ``--storage``."""

from __future__ import annotations

import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raybench.errors import UserError, brief
from raybench.storage.base import Storage
from raybench.storage.local import LocalStorage
from raybench.storage.wrapped import Wrapped

OBJECT_STORES = ("s3", "gs")
FOLDERS = (  # all that raybench writes
    "results/cells", "results/attempts", "stages", "artifacts", "checkpoints", "rungs", "journal", "plans", "runs",
    "stops", "leases", "tracebacks", "serve", "latency", "shares", "labels", "damaged",
)  # fmt: skip


def open_storage(url: str | Path) -> Storage:
    """The storage at `url`: a path, ``file://``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

    Creates no files. Raises UserError for another scheme, a path that is a file, a bucket that does not exist or can't
    be reached, missing credentials, and a missing client library (``raybench[s3]``, ``raybench[gcs]``).
    """
    text = str(url)
    if "\0" in unquote(text):
        raise UserError(f"storage {text!r}: found a NUL in it; expected the name of a folder")
    scheme, separator, _ = text.partition("://")
    if separator and scheme in OBJECT_STORES:
        from raybench.storage.objects import ObjectStorage

        return ObjectStorage(text)
    if separator and scheme != "file":
        raise UserError(
            f"storage {text!r}: found scheme {scheme!r}; expected a directory, file:///directory, s3://bucket/prefix "
            "or gs://bucket/prefix"
        )
    try:
        path = Path(unquote(urlsplit(text).path)) if separator else Path(text).expanduser()
        found_file = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name of 5,000 characters, an open bracket, ~nobody
        raise UserError(f"storage {brief(text)!r}: {getattr(error, 'strerror', None) or error}") from error
    if found_file:
        raise UserError(f"storage {text!r}: found a file; expected the --storage of a run, a folder")
    return LocalStorage(path)


def open_existing(url: str | Path) -> Storage:
    """`open_storage` for commands that only read: UserError also for a local folder that does not exist."""
    storage = open_storage(url)
    if isinstance(storage, LocalStorage) and not storage.root.is_dir():
        raise UserError(f"storage {str(url)!r}: there is no such folder; expected the --storage of a run")
    return storage


def check_writable(storage: Storage) -> None:
    """Write and remove a small key, to find out before a sweep starts whether its results can be stored.

    Raises UserError if the storage can't be written; it isn't waited for. Also if something else lies where it has its
    folders.
    """
    if odd := dict.fromkeys(why for folder in FOLDERS if (why := storage.not_listed(folder))):
        raise UserError("; ".join(odd))
    while isinstance(storage, Wrapped):
        storage = storage.inner
    key = f"probe/{uuid.uuid4().hex}"
    try:
        storage.create(key, b"")
        storage.delete(key)
    except OSError as error:
        raise UserError(f"storage {storage.url!r}: can't be written ({error})") from error
