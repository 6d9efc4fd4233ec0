"""A storage that may be away for some minutes: a full disk, a server that restarts, credentials that are renewed.

Calls that fail are made again, first after a second, later every 15 seconds, and after PATIENCE_S the error is raised.
"""

from __future__ import annotations

import errno
import threading
import time
import warnings
from collections.abc import Callable

from raybench.errors import RaybenchWarning, UserError
from raybench.storage.base import Storage
from raybench.storage.wrapped import P, T, Wrapped

PATIENCE_S = 300.0
FIRST_S, LONGEST_S = 1.0, 15.0  # waits between two calls
NOTICE_S = 10.0  # a longer wait is reported
PASSING = {  # what may be over in a minute, in a folder; None: an object store that doesn't answer
    None, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTCONN,
    errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.ECONNABORTED, errno.EBUSY, errno.EAGAIN, errno.EMFILE, errno.ENFILE,
}  # fmt: skip


class Patient(Wrapped):
    """`inner` with patience, for the main thread of a process that runs units.

    Other threads, which renew leases and heartbeats, get the error at once and try again by themselves. Once the
    patience was in vain, calls fail at once until one succeeds.

    Args:
        inner: a storage that could be written when the run began.
        say: called with a sentence about a wait of more than NOTICE_S; a warning by default.
    """

    def __init__(self, inner: Storage, say: Callable[[str], None] | None = None) -> None:
        super().__init__(inner)
        self._say = say or (lambda text: warnings.warn(text, RaybenchWarning, stacklevel=2))
        self._given_up = False

    def reading(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call it until it succeeds, or patience ends."""
        began, wait, noticed = time.monotonic(), FIRST_S, False
        while True:
            try:
                found = call(*args, **options)
            except (OSError, UserError) as error:
                waited = time.monotonic() - began
                if self._given_up or not _may_pass(error) or not _in_main_thread():
                    raise
                if waited > PATIENCE_S:
                    self._given_up = True
                    raise
                if waited + wait > NOTICE_S and not noticed:
                    noticed = True
                    self._say(f"waiting for the storage {self.url}, at most {PATIENCE_S / 60:.0f} min: {error}")
            else:
                self._given_up = False
                if noticed:
                    self._say(f"the storage {self.url} works again")
                return found
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_S)

    writing = reading


def patient(storage: Storage, say: Callable[[str], None] | None = None) -> Storage:
    """`storage` with patience; itself if it has it already."""
    return storage if isinstance(storage, Patient) else Patient(storage, say)


def _may_pass(error: OSError | UserError) -> bool:
    """Whether the same call may succeed later. A UserError counts when the storage made it of what it was answered."""
    if isinstance(error, UserError):
        return error.__cause__ is not None
    return error.errno in PASSING


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
