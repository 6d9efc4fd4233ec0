"""Names of pages and fields: safe in file names and addresses whatever a store's names hold."""

from __future__ import annotations

import re
from hashlib import sha256


def slug(*parts: str) -> str:
    """A file name of letters, digits and dashes; a hash is added where anything was lost.

    Example:
        >>> slug("board", "cifar10", "vit-nano"), slug("method", "magnitude-l2+group-norm")
        ('board-cifar10-vit-nano', 'method-magnitude-l2+group-norm')
        >>> slug("board", "../x")
        'board-x-0fb64a75'
    """
    whole = "-".join(parts)
    plain = re.sub(r"[^A-Za-z0-9+_]+", "-", whole).strip("-")[:80]
    return plain if plain == whole else f"{plain}-{sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
