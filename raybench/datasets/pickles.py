"""CIFAR's pickles, read without running anything: arrays, strings, lists, dicts and numbers come out, or an error."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from raybench.errors import UserError


class _Plain(pickle.Unpickler):
    """An unpickler that knows four names, all of which only build arrays and bytes."""

    _ALLOWED = (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how Python 3 writes bytes into old protocols
    )

    def find_class(self, module: str, name: str) -> Any:
        """One of the allowed names; UnpicklingError for every other, before it is imported."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only arrays, strings, lists and dicts are read"
            )
        if name == "encode":
            return _encode
        return np._core.multiarray._reconstruct if name == "_reconstruct" else getattr(np, name)

    def persistent_load(self, key: Any) -> Any:
        """Never: it would mean somebody else's object."""
        raise pickle.UnpicklingError(f"it refers to an outside object {key!r}")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding!r}, expected latin1")
    return text.encode("latin1")


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict in `path` with str keys; UserError when it is missing, cut short, unsafe or no dict."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    try:
        found = _Plain(io.BytesIO(data), encoding="latin1").load()
    except EOFError as error:
        raise UserError(f"{path}: the file is cut short ({len(data):,} bytes); fetch it again") from error
    except pickle.UnpicklingError as error:
        word = "cut short or damaged" if "truncated" in str(error) or "ran out" in str(error) else "refused"
        raise UserError(f"{path}: {word}: {error}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, UnicodeDecodeError, MemoryError) as error:
        raise UserError(f"{path}: damaged, or not one of CIFAR's files: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: found {type(found).__name__}, expected a dict as in CIFAR's files")
    return {key if isinstance(key, str) else str(key): value for key, value in found.items()}
