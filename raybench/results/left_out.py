"""The sentence about result files whose rows a listing leaves out: needs neither Arrow nor records of a sweep."""

from __future__ import annotations

from collections.abc import Mapping

from raybench.errors import counted


def left_out(url: str, bad: Mapping[str, str]) -> str:
    """What a listing says of files whose rows it leaves out.

    Args:
        url: of the storage.
        bad: key of each file -> why.

    Returns:
        Their number, five of them by name, and what to do, as text.

    Example:
        >>> left_out("r", {"results/cells/x.parquet": "it is cut short"}).partition(". ")[0]
        '1 file in r is left out: results/cells/x.parquet: it is cut short'
    """
    named = "; ".join(f"{key}: {why}" for key, why in sorted(bad.items())[:5])
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    lost = f"{counted(len(bad), 'file')} in {url} {'is' if len(bad) == 1 else 'are'} left out: {named}{more}"
    return f"{lost}. Run the sweep again to get their rows, and delete the files that it leaves"
