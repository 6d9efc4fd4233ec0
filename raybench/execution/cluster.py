"""Starting Ray here, or joining a cluster: environment and authentication; and what a unit asks of it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raybench.errors import UserError
from raybench.spec.sweep import Resources

# Read by Ray when it is imported or started. Ours is the only output, the results are not Tune's to log or to sync,
# trials stay in the folder where the command was typed, and Ctrl-C is ours.
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
CONNECT_S = 10.0
OBJECT_STORE = 100_000_000  # bytes; units exchange files, not objects


@contextmanager
def connected(address: str | None, cpus: int | None = None) -> Iterator[None]:
    """Ray, started on this machine for this run alone, or the cluster at `address`. Shut down on leaving.

    `cpus`: how many this machine lends, all by default. A Ray that this process is connected to already is used and
    left as it is. UserError when none answers.
    """
    _prepare(address)
    if address is not None:
        _check_port(address)
    import ray

    if ray.is_initialized():
        yield
        return
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"address": "local", "num_cpus": cpus}
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    else:
        options |= {"address": address}
    try:
        ray.init(**options)
    except ray.exceptions.AuthenticationError as error:
        raise UserError(f"--address {address}: the cluster refuses this token; expected the one of its head") from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({_first_line(error)}){_about_tokens()}"
        ) from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """UserError at once when nobody listens at HOST:PORT: Ray itself would try for minutes."""
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
        os.environ["RAY_AUTH_MODE"] = "token"  # a token of this run's own: other users of the machine stay out
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        return
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    has_token = has_token or (Path.home() / ".ray" / "auth_token").exists()
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"


def demand(resources: Resources) -> dict[str, float]:
    """What one unit asks Ray for; memory in bytes."""
    asked = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": float(resources.memory or 0)}
    return {name: amount for name, amount in asked.items() if amount}


def _about_tokens() -> str:
    """Ray says the same of a cluster that isn't there and of one that wants to hear another token."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return "; if there is one, it may refuse this token"
    return "; if there is one, it may ask for a token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
