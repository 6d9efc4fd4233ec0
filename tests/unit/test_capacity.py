"""How many units are kept at a cluster's door, and what its autoscaler's word is worth; Ray is made up."""

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
    from raybench.spec.sweep import Resources

    nodes({"CPU": 1.0})
    limits = []
    monkeypatch.setattr(tune, "fit", lambda run, trainable, limit: limits.append(limit))
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
