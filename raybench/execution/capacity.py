"""How many units a cluster can hold, and whether it can ever hold one: from its nodes and its autoscaler."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from raybench.errors import UserError, counted
from raybench.execution.contact import lost_cluster

AT_ONCE = (
    400  # units submitted to Tune at once where a cluster may grow: Tune's loop, one process, handles some hundreds
)
TEAMS_AT_ONCE = 16  # the same for units of several processes: a waiting process starts each of them
ANSWER_S = 18.0  # time for the autoscaler to react; it reads the requests every five seconds
ROUNDS = 2  # autoscaler rounds before pending nodes are taken as meant for this request: other drivers may cause them
SHOWN = ("CPU", "GPU", "memory")
GRAIN = 1e-4  # step in which Ray counts resources


def concurrency(request: Mapping[str, float], address: str | None, processes: int = 1) -> int:
    """Maximum number of trials submitted to Tune at once: twice what the cluster holds now; of teams what it holds.

    At least AT_ONCE for a cluster at an `address`: it may have few of its nodes when this is computed, at the start.

    Args:
        request: resources of one process, name -> amount, memory in bytes.
        processes: of one unit; they may be on several nodes.
        address: of the cluster; None for a Ray that was started on this machine, which doesn't grow.

    Raises:
        UserError: no node, present or possible, can hold one unit.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not nodes:
        raise lost_cluster("no node of the Ray cluster is alive")
    now = sum(_fits(request, node) for node in nodes) // processes
    if not now and (address is None or not _may_be_added(request, processes)):
        more = "" if address is None else "; no kind of node that it may start has more"
        each = "a cell; expected what a node has" if processes == 1 else (
            f"for each of {processes} processes of a cell; expected what the nodes have together"
        )  # fmt: skip
        raise UserError(f"resources: found {_words(request)} {each}: {_inventory(nodes)}{more}")
    if processes > 1:  # a team that waits for its GPUs has no process that could start meanwhile
        return max(now, TEAMS_AT_ONCE if address else 1)
    return max(2 * now, AT_ONCE if address else 1)


def slots(request: Mapping[str, float], processes: int = 1) -> int:
    """How many units of so many processes the cluster holds now, at least one."""
    import ray

    return max(1, sum(_fits(request, node["Resources"]) for node in ray.nodes() if node["Alive"]) // processes)


def awaited(label: str, request: Mapping[str, float], processes: int = 1) -> str:
    """What a unit waits for that no process runs yet: resources, or the start of its processes.

    Args:
        label: of the unit.
        request: resources of one process.
        processes: of the unit.
    """
    import ray
    from ray.util import placement_group_table

    groups = [one for one in placement_group_table().values() if one["state"] in ("PENDING", "RESCHEDULING")]
    if not any(_same(list(one["bundles"].values()), [request] * processes) for one in groups):
        who = counted(processes, "process", "processes")
        return f"{label}: waiting for {who} to start and to import what units need"
    each = f" for each of {processes} processes" if processes > 1 else ""
    free = {name: amount for name, amount in ray.available_resources().items() if name in SHOWN}
    return f"{label}: waiting for {_words(request)}{each}; free in the cluster: {_words(free) or 'nothing'}"


def _same(found: Sequence[Mapping[str, float]], asked: Sequence[Mapping[str, float]]) -> bool:
    """Whether a placement group's bundles are those that were asked for."""
    return len(found) == len(asked) and all(
        math.isclose(one.get(name, 0.0), amount, abs_tol=GRAIN)
        for one, other in zip(found, asked, strict=True)
        for name, amount in other.items()
    )


def _may_be_added(request: Mapping[str, float], processes: int = 1) -> bool:
    """Whether the autoscaler may start nodes that hold `request`; True with a warning where Ray can't say."""
    try:
        return _autoscaler_accepts(request, processes)
    except (ImportError, AttributeError) as error:  # private parts of Ray, which another version may lack
        import ray

        warnings.warn(
            f"Ray {ray.__version__} doesn't report the state of its autoscaler ({error}). No node holds "
            f"{_words(request)} now; the run waits until one joins",
            stacklevel=2,
        )
        return True


def _autoscaler_accepts(request: Mapping[str, float], processes: int = 1) -> bool:
    """Submit one placement group for `request`, once a process, and read from the autoscaler's state how it reacts."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([dict(request) for _ in range(processes)])
    deadline = time.monotonic() + ANSWER_S
    rounds: set[int] = set()
    try:
        version_at_start = _status().cluster_resource_state.cluster_resource_state_version
        while time.monotonic() < deadline:
            if group.wait(0.5):
                return True
            state = _status().autoscaling_state
            if any(_is_for(request, gang) for gang in state.infeasible_gang_resource_requests):
                return False
            if state.last_seen_cluster_resource_state_version > version_at_start:
                rounds.add(state.last_seen_cluster_resource_state_version)
            pending = state.pending_instance_requests or any(
                node.instance_type_name for node in state.pending_instances
            )
            if pending and len(rounds) >= ROUNDS:
                return True
        return _has_autoscaler_v1()
    finally:
        remove_placement_group(group)


def _has_autoscaler_v1() -> bool:
    """Whether autoscaler v1 started the nodes: it reports no pending requests, but gives node types names."""
    types = [node.ray_node_type_name for node in _status().cluster_resource_state.node_states]
    return any(name and not name.startswith(("node_", "local.")) for name in types)


def _status() -> Any:
    """State of nodes and autoscaler: Ray's GetClusterStatusReply.

    Private, as no public call reports infeasible requests (`ray.autoscaler.v2.sdk.get_cluster_status` drops them).
    ImportError or AttributeError where this version of Ray has no such parts.
    """
    from ray._private.worker import global_worker
    from ray.core.generated import autoscaler_pb2

    reply: Any = global_worker.gcs_client.get_cluster_status()  # type: ignore[attr-defined]  # set when Ray connects
    reply_type: Any = autoscaler_pb2.GetClusterStatusReply  # type: ignore[attr-defined]  # generated at import
    return reply if isinstance(reply, reply_type) else reply_type.FromString(reply)


def _is_for(request: Mapping[str, float], gang: Any) -> bool:
    """Whether a gang request in the autoscaler's state is the one for `request`."""
    bundles = [bundle for selector in gang.bundle_selectors for bundle in selector.resource_requests]
    bundles = bundles or list(gang.requests)
    return any(
        all(math.isclose(bundle.resources_bundle.get(name, 0.0), request[name], abs_tol=GRAIN) for name in request)
        for bundle in bundles
    )


def _fits(request: Mapping[str, float], node: Mapping[str, float]) -> int:
    """How many times `request` fits into the resources of `node`."""
    return int(min((node.get(name, 0) + 1e-9) // amount for name, amount in request.items()))


def _words(amounts: Mapping[str, float]) -> str:
    memory = {"memory": f"{amounts.get('memory', 0) / 2**30:.1f} GiB memory"}
    return ", ".join(memory.get(name, f"{amount:g} {name}") for name, amount in amounts.items())


def _inventory(nodes: list[dict[str, float]]) -> str:
    shown = [{name: node[name] for name in SHOWN if node.get(name)} for node in nodes]
    return " | ".join(sorted({_words(node) or "nothing" for node in shown}))
