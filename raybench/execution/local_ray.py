"""The Ray that a run starts for itself on this machine: on loopback, in a folder of this user, without idle helpers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from raybench.pipeline.exclusive import own_folder, user_folder

LOOPBACK = "127.0.0.1"
LONGEST_FOLDER = 40  # a socket's path has at most 107 characters, of which Ray's own part is 65
OBJECT_STORE = 100_000_000  # bytes; units exchange files, not objects
# Processes that Ray starts beside its own two: the dashboard (without its pages; `ray.init` waits for it), the
# autoscaler, and what copies log files to the driver. Nobody reads here what they do.
IDLE_HELPERS = ("start_api_server", "start_monitor", "start_log_monitor")


def options(cpus: int | None) -> dict[str, Any]:
    """What `ray.init` is asked for; `cpus` of this machine, all where None."""
    asked = {"address": "local", "num_cpus": cpus, "_node_ip_address": LOOPBACK}
    return asked | {"include_dashboard": False, "object_store_memory": OBJECT_STORE, **_folder()}


def _folder() -> dict[str, str]:
    """The option that puts Ray's files into a folder of this user alone; none where its path is too long."""
    if "RAY_TMPDIR" in os.environ:
        return {}
    folder: Path = user_folder() / "ray"
    if len(str(folder)) > LONGEST_FOLDER:
        return {}
    own_folder(folder.parent)
    return {"_temp_dir": str(own_folder(folder))}


@contextmanager
def small_and_private() -> Iterator[None]:
    """Context in which `ray.init` opens no port to others and starts no process that a run has no use for.

    Ray replaces a loopback address by that of a network card, and starts helpers whatever it is asked for; the
    functions that do so are private. Where another version of Ray lacks them, it starts as it does by itself: the
    ports are open then, behind the run's token, and starting takes some seconds longer.
    """
    from ray._private import services
    from ray._private.node import Node

    with ExitStack() as changes:
        changes.enter_context(_replaced(services, "get_node_ip_address", lambda *_, **__: LOOPBACK))
        for name in IDLE_HELPERS:
            changes.enter_context(_replaced(Node, name, lambda *_, **__: None))
        yield


@contextmanager
def _replaced(holder: object, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Context in which `holder` has `function` under `name`; nothing changes where it has no such name."""
    before = getattr(holder, name, None)
    if before is None:
        yield
        return
    setattr(holder, name, function)
    try:
        yield
    finally:
        setattr(holder, name, before)
