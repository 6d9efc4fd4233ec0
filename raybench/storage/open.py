"""From what people type after ``--storage`` to a Storage."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from raybench.errors import UserError
from raybench.storage.base import Storage
from raybench.storage.local import LocalStorage


def open_storage(url: str | Path) -> Storage:
    """The storage at `url`: a path or ``file://`` address. Nothing is written until something is stored.

    Raises UserError for another scheme, and for a path that is a file.
    """
    text = str(url)
    scheme, separator, _ = text.partition("://")
    if separator and scheme != "file":
        raise UserError(f"storage {text!r}: found scheme {scheme!r}; expected a directory or file:///directory")
    path = Path(unquote(urlsplit(text).path)) if separator else Path(text).expanduser()
    if path.is_file():
        raise UserError(f"storage {text!r}: found a file; expected a directory")
    return LocalStorage(path)
