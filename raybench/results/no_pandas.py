"""Lets pyarrow start without pandas, which takes half a second, where rows are only read and printed."""

from __future__ import annotations

import sys


def leave_pandas_out() -> None:
    """Let pyarrow look for pandas now and find none. It still imports it when a table is converted to a data frame.

    At its first array pyarrow looks whether it is one of pandas. For that moment pandas is marked as missing.

    Example:
        >>> leave_pandas_out()
        >>> import pandas
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # what the import system takes for "not installed"
    try:
        pa.scalar(0)
    finally:
        del sys.modules["pandas"]
