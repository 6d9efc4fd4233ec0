"""What a server was started with."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Settings:
    """How `raybench serve` was started.

    Attributes:
        storage: address of the storage whose results are shown, and where queued sweeps write theirs.
        work: folder for queued sweeps, their logs and uploaded weights; unused with `read_only`.
        host: name or address to listen on.
        address: Ray cluster of queued sweeps; None: they run on this machine without Ray.
        read_only: show only; nothing can be queued or uploaded.
        token: what a browser must present; None on a loopback address where none was given.
        allowed: folders of which the form may name files, modules and data.
        names: further host names by which browsers may call the server.
        max_upload: bytes of one uploaded file.
        secret: of this process; CSRF tokens and cookies are derived from it.
    """

    storage: str
    work: Path
    host: str = "127.0.0.1"
    address: str | None = None
    read_only: bool = False
    token: str | None = None
    allowed: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    max_upload: int = 10**9
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is one of this machine alone.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("example.org")
        (True, True, False, False)
    """
    if host in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
