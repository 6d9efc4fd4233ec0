"""What a call is refused with."""

import pytest

from raybench.errors import UserError


def error_of(call, *args, error=UserError, **named) -> str:
    """The message of the `error` that ``call(*args, **named)`` must raise."""
    with pytest.raises(error) as found:
        call(*args, **named)
    return str(found.value)
