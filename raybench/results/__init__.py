"""The Parquet store, its schema as code, and what is read out of it. Called, it is `raybench.results(path)`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that is also the function of its name: `raybench.results` is one attribute, whichever came first."""

    def __call__(self, path: Any, **options: Any) -> Any:
        """See `raybench.results.api.results`."""
        from raybench.results.api import results

        return results(path, **options)


sys.modules[__name__].__class__ = _Callable
