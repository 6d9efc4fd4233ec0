"""What a cluster holds, and whether it can ever hold one unit: asked of its nodes, and of its autoscaler."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from raybench.errors import UserError

AT_ONCE = 400  # units at Ray's door where the cluster may grow: Tune's loop, one process, keeps up with some hundreds
ANSWER_S = 18.0  # an autoscaler looks at what is asked for every five seconds
ROUNDS = 2  # looks of the autoscaler before nodes that are coming count as coming for us: others ask too
GRAIN = 1e-4  # Ray counts amounts in steps of this size


def concurrency(asked: Mapping[str, float], address: str | None) -> int:
    """The most units to keep at Ray's door: twice what it holds, and AT_ONCE at least where it may grow while they run.

    Asked once, at the start: a cluster at an `address` may have a tenth of its nodes by then. The plan bounds it too.

    UserError when no node, present or possible, can hold one unit of `asked` (resource name -> amount, memory in
    bytes). Where no node has the room now and an autoscaler is asked to make some, nothing is waited for here.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    now = sum(_fits(asked, node) for node in nodes)
    if not now and (address is None or not _may_come(asked)):
        more = "" if address is None else "; no kind of node that it may start has more"
        raise UserError(f"resources: found {_words(asked)} a cell; expected what a node has: {_inventory(nodes)}{more}")
    return max(2 * now, AT_ONCE if address else 1)


def _may_come(asked: Mapping[str, float]) -> bool:
    """Ask the cluster for one unit, and look what its autoscaler makes of it."""
    from ray.util.placement_group import placement_group, remove_placement_group

    room = placement_group([dict(asked)])
    deadline = time.monotonic() + ANSWER_S
    rounds: set[int] = set()
    try:
        asked_at = _status().cluster_resource_state.cluster_resource_state_version
        while time.monotonic() < deadline:
            if room.wait(0.5):
                return True
            state = _status().autoscaling_state
            if any(_is(asked, request) for request in state.infeasible_gang_resource_requests):
                return False
            if state.last_seen_cluster_resource_state_version > asked_at:
                rounds.add(state.last_seen_cluster_resource_state_version)
            coming = state.pending_instance_requests or any(one.instance_type_name for one in state.pending_instances)
            if coming and len(rounds) >= ROUNDS:
                return True
        return _grows()
    finally:
        remove_placement_group(room)


def _grows() -> bool:
    """Whether the nodes come from an autoscaler that doesn't tell its mind (v1): then their kinds have names."""
    types = [node.ray_node_type_name for node in _status().cluster_resource_state.node_states]
    return any(name and not name.startswith(("node_", "local.")) for name in types)


def _status() -> Any:
    """What Ray's control store and autoscaler say of nodes and requests."""
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    told = global_worker.gcs_client.get_cluster_status()
    return told if isinstance(told, GetClusterStatusReply) else GetClusterStatusReply.FromString(told)


def _is(asked: Mapping[str, float], gang: Any) -> bool:
    """Whether a gang request of the autoscaler's state is the one for `asked`."""
    bundles = [request for selector in gang.bundle_selectors for request in selector.resource_requests]
    bundles = bundles or list(gang.requests)
    return any(
        all(math.isclose(one.resources_bundle.get(name, 0.0), asked[name], abs_tol=GRAIN) for name in asked)
        for one in bundles
    )


def _fits(asked: Mapping[str, float], offered: Mapping[str, float]) -> int:
    return int(min((offered.get(name, 0) + 1e-9) // amount for name, amount in asked.items()))


def _words(amounts: Mapping[str, float]) -> str:
    memory = {"memory": f"{amounts.get('memory', 0) / 2**30:.1f} GiB memory"}
    return ", ".join(memory.get(name, f"{amount:g} {name}") for name, amount in amounts.items())


def _inventory(nodes: list[dict[str, float]]) -> str:
    shown = [{name: node[name] for name in ("CPU", "GPU", "memory") if node.get(name)} for node in nodes]
    return " | ".join(sorted({_words(node) or "nothing" for node in shown})) or "no node is alive"
