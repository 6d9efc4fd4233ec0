"""Reads CIFAR's pickles without running code: only arrays, strings, lists, dicts and numbers are built."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray

from raybench.errors import UserError


class _SafeUnpickler(pickle.Unpickler):
    """An unpickler that accepts only names that build arrays and bytes."""

    _ALLOWED = (
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how Python 3 writes bytes into old protocols
    )

    def find_class(self, module: str, name: str) -> Any:
        """The object of an allowed name; UnpicklingError for any other, before it is imported."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it contains {module}.{name}; only arrays, strings, lists and dicts are read")
        if name == "encode":
            return _encode
        return multiarray._reconstruct if name == "_reconstruct" else getattr(np, name)

    def persistent_load(self, key: Any) -> Any:
        """Refused: it would load an object from outside the file."""
        raise pickle.UnpicklingError(f"it refers to an object outside the file, {key!r}")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding!r}, expected latin1")
    return text.encode("latin1")


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict in `path` with str keys; UserError when the file is missing, truncated, unsafe or not a dict."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    try:
        found = _SafeUnpickler(io.BytesIO(data), encoding="latin1").load()
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
