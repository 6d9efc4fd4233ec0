"""How many units are kept at a cluster's door, and what its autoscaler's word is worth; Ray is made up."""

import importlib
from types import SimpleNamespace

import pytest

from raybench.errors import UserError
from raybench.execution import capacity
from raybench.execution.capacity import concurrency

ray = pytest.importorskip("ray")


@pytest.fixture
def nodes(monkeypatch):
    """Alive nodes of the given resources, in place of a cluster's."""

    def have(*resources):
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": one} for one in resources])

    return have


def test_a_cluster_that_grows_is_asked_for_more_than_it_began_with(nodes, monkeypatch):
    from raybench.execution import tune
    from raybench.execution.worker import Assignment
    from raybench.sweep.resources import Resources

    nodes({"CPU": 1.0})
    limits = []
    monkeypatch.setattr(tune, "fit", lambda run, trainable, limit, workers: limits.append(limit))
    fit = tune.executor(Resources(cpus=1), address="auto")
    for count in (100, 9000):
        run = SimpleNamespace(
            id="x", assignment=Assignment(""), stop_key="s", queue=SimpleNamespace(units=range(count))
        )
        fit(run)
    assert limits == [100, capacity.AT_ONCE]


def test_a_machine_that_can_not_grow_is_asked_for_twice_what_it_holds(nodes):
    nodes({"CPU": 4.0, "GPU": 1.0})
    assert concurrency({"CPU": 1.0}, None) == 8
    assert concurrency({"CPU": 1.0, "GPU": 0.1}, None) == 8
    nodes(*[{"CPU": 8.0}] * 100)
    assert concurrency({"CPU": 1.0}, "auto") == 1600


def test_what_no_node_has_is_refused_where_none_can_come(nodes):
    nodes({"CPU": 4.0})
    with pytest.raises(UserError, match="found 1 GPU a cell; expected what a node has: 4 CPU"):
        concurrency({"GPU": 1.0}, None)


def status(version, seen, infeasible=None, coming=True):
    """What Ray says: the present version, the one its autoscaler saw last, what can't be done, if nodes come."""
    gangs = [SimpleNamespace(bundle_selectors=[], requests=[SimpleNamespace(resources_bundle=infeasible)])]
    return SimpleNamespace(
        cluster_resource_state=SimpleNamespace(cluster_resource_state_version=version, node_states=[]),
        autoscaling_state=SimpleNamespace(
            infeasible_gang_resource_requests=gangs if infeasible else [],
            last_seen_cluster_resource_state_version=seen,
            pending_instance_requests=["a node"] if coming else [],
            pending_instances=[],
        ),
    )


@pytest.fixture
def reported(monkeypatch):
    """Ray and its autoscaler tell these statuses, one after the other."""

    def tell(*statuses):
        left = list(statuses)
        monkeypatch.setattr(capacity, "_status", lambda: left.pop(0))
        return left

    room = SimpleNamespace(wait=lambda seconds: False)
    groups = importlib.import_module("ray.util.placement_group")
    monkeypatch.setattr(groups, "placement_group", lambda bundles: room)
    monkeypatch.setattr(groups, "remove_placement_group", lambda room: None)
    return tell


def test_nodes_that_come_for_another_driver_do_not_hide_an_impossible_request(nodes, reported):
    nodes({"CPU": 1.0})
    reported(status(10, 9), status(11, 9), status(12, 11), status(13, 12, infeasible={"GPU": 0.3}))
    with pytest.raises(UserError, match="no kind of node that it may start has more"):
        concurrency({"GPU": 0.1 + 0.2}, "auto")  # 0.30000000000000004, where Ray says 0.3


def test_nodes_that_come_are_believed_after_two_rounds(nodes, reported):
    nodes({"CPU": 1.0})
    left = reported(status(10, 9), status(11, 9), status(12, 11), status(13, 11), status(14, 12), "never asked for")
    assert concurrency({"GPU": 1.0}, "auto") == capacity.AT_ONCE
    assert left == ["never asked for"]


def test_another_request_that_is_impossible_is_not_ours(nodes, reported):
    nodes({"CPU": 1.0})
    other = {"GPU": 8.0}
    reported(status(10, 9), status(11, 10), status(12, 11, infeasible=other), status(13, 12, infeasible=other))
    assert concurrency({"GPU": 1.0}, "auto") == capacity.AT_ONCE


def test_a_ray_without_the_private_parts_is_warned_of_and_waited_for(nodes, reported, monkeypatch):
    nodes({"CPU": 1.0})
    reported()
    monkeypatch.setattr(capacity, "_status", lambda: SimpleNamespace().autoscaling_state)
    with pytest.warns(UserWarning, match="doesn't report the state of its autoscaler .* No node holds 1 GPU now"):
        assert concurrency({"GPU": 1.0}, "auto") == capacity.AT_ONCE
