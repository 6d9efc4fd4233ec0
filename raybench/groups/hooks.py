"""Forward hooks that stay on a network for one block of code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Context at whose end the hooks are removed, after an error, too.

    Args:
        handles: what `register_forward_hook` and its like returned; a generator registers as the context begins.
    """
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield
