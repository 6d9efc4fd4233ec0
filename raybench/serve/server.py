"""Listens and serves until Ctrl-C or SIGTERM, then stops what runs."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from raybench.errors import UserError
from raybench.serve.app import make_app
from raybench.serve.settings import Settings

STREAMS_S = 3  # that open streams of events have to end


def serve(settings: Settings, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to end.

    Args:
        settings: of the server.
        port: to listen on; 0 for any.
        ready: called with the address to open, once it listens.

    Raises:
        UserError: the address can't be listened on, or the storage or the work folder can't be used.
    """
    listening = _socket(settings.host, port)
    app = make_app(settings)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
                            timeout_graceful_shutdown=STREAMS_S, lifespan="on")  # fmt: skip
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        server = Server(config, app)
        ready(f"http://{shown}:{listening.getsockname()[1]}/")
        server.run(sockets=[listening])
    finally:
        listening.close()


class Server(uvicorn.Server):
    """uvicorn's server, which ends at a signal without raising it again, and ends streams of events first."""

    def __init__(self, config: uvicorn.Config, app: Any) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Note that the process is to end."""
        self._app.state.closing = True
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM; the command's own handlers are back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _socket(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: can't be listened on: {error.strerror or error}") from error
