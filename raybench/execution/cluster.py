"""Starts Ray on this machine or joins a cluster: environment variables, authentication, resources of a unit."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from raybench.errors import UserError
from raybench.execution import local_ray
from raybench.execution.interrupt import interrupts

# Read by Ray when it is imported or started. Raybench prints the output, stores the results and handles Ctrl-C, not
# Ray or Tune; trials run in the folder where the command was typed.
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
CONNECT_S = 10.0


@contextmanager
def connected(address: str | None, cpus: int | None = None) -> Iterator[str]:
    """Connect to the cluster at `address`, or to a Ray started on this machine for this run; disconnect on leaving.

    `cpus`: how many CPUs of this machine Ray may use, all by default. If this process is connected to a Ray already,
    that one is used and left running. Yields HOST:PORT of its head. UserError when no cluster answers.
    """
    _prepare(address)
    if address is not None:
        _check_port(address)
    import ray

    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= local_ray.options(cpus)
    else:
        options |= {"address": address}
    try:
        with _own_sigterm(), local_ray.small_and_private() if address is None else nullcontext():
            ray.init(**options)
    except ray.exceptions.AuthenticationError as error:
        raise UserError(
            f"--address {address}: the cluster refuses this token; expected the token of its head node"
        ) from error
    except Exception as error:  # Ray raises bare ones, too
        if address is None:
            raise UserError(f"Ray can't be started on this machine: {_first_line(error)}") from error
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({_first_line(error)}){_about_tokens()}"
        ) from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    stays = bool(_kept)
    if stays:
        _kept[-1] = True
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        if not stays:
            _shut_down()


def is_connected() -> bool:
    """Whether this process is connected to a Ray, without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


_kept: list[bool] = []  # one for each `kept` that is open: whether Ray was started, or joined, in it


@contextmanager
def kept() -> Iterator[None]:
    """Context in which Ray, once `connected`, stays for the next `connected`; on leaving it is shut down.

    Starting Ray takes seconds, which a command that runs several times spends once; one that runs nothing spends none.
    """
    _kept.append(False)
    try:
        yield
    finally:
        if _kept.pop():
            _shut_down()


def _shut_down() -> None:
    """Disconnect, and end a Ray that was started here."""
    import ray

    with _uninterrupted():
        ray.shutdown()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Context without a KeyboardInterrupt of a first or repeated signal: one half-way leaves Ray's C++ in pieces."""
    with interrupts() as requests:
        if requests.ending:
            requests.heard()
            yield
            return
        with requests.stopping(lambda: None):
            yield


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Context after which SIGTERM is handled as before: Ray puts handlers in its place that end the process at once."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _check_port(address: str) -> None:
    """UserError when nothing listens at HOST:PORT; checked first, as Ray would retry for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: a name with an empty part
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({error}); expected auto or HOST:PORT"
        ) from error


def _prepare(address: str | None) -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address is None:
        os.environ["RAY_AUTH_MODE"] = (
            "token"  # a token made for this run, so that other users of the machine can't connect
        )
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        return
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    has_token = has_token or (Path.home() / ".ray" / "auth_token").exists()
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"


def _about_tokens() -> str:
    """A hint for the message: Ray reports a missing cluster and a rejected token by the same error."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return "; if there is one, it may refuse this token"
    return "; if there is one, it may require a token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
