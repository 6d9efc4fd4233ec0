"""Different resources for each model, and more of a GPU after memory ran out, inside a real Ray Tune."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

import pytest
from ray import cloudpickle

from raybench.execution.driver import Run, drive
from raybench.execution.tune import executor
from raybench.execution.worker import Assignment
from raybench.plan.share import Sharing, group_of
from raybench.plan.shares import with_probes
from raybench.storage.local import LocalStorage
from raybench.sweep.resources import Resources

from . import fake_worker, sharing_worker
from .fakes import plan, trial, two_bases
from .test_driver import Notes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
for module in (fake_worker, sharing_worker):
    cloudpickle.register_pickle_by_value(module)


@pytest.fixture(scope="module", autouse=True)
def ray_with_a_made_up_gpu():
    """Ray counts a GPU that isn't there; nothing here touches it."""
    import ray

    from raybench.execution.cluster import connected

    init = ray.init
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ray, "init", lambda **options: init(**options, num_gpus=1))
        with connected(None, cpus=2):
            yield


def driven(run, whole, shares=None):
    """Drive `whole` and return how each unit was started: a list of grants, as its worker wrote them."""

    def missing():
        done = {key for key, outcome in run.outcomes.items() if outcome.status == "ok"}
        return replace(plan(*(u for u in whole.units if u.key not in done)), shares=shares or {})

    drive(run, missing, executor(run.resources, None, sharing_worker.SharingTrial))
    grants = defaultdict(list)
    for key in sorted(run.storage.list("grants")):
        grants[key.split("/")[1]].append(json.loads(run.storage.read(key)))
    return grants


def run_with(tmp_path, **resources):
    storage = LocalStorage(tmp_path)
    return Run(storage, Assignment(storage.url), Notes(), resources=Resources(**resources))


def test_each_model_has_its_own_resources(tmp_path):
    run = run_with(tmp_path, cpus=1, models={"*-vit": {"cpus": 2, "gpus": 0.5}})
    grants = driven(run, two_bases(cells=3, model="test-vit"))
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
    assert {(one["cpus"], one["gpus"]) for key in grants for one in grants[key] if "-a" in key} == {(1, 0)}
    assert {(one["cpus"], one["gpus"]) for key in grants for one in grants[key] if "-b" in key} == {(2, 0.5)}
    assert {one["assigned"] for key in grants for one in grants[key] if "-b" in key} == {0.5}


@pytest.mark.parametrize(("needs", "ends"), [(0.5, "ok"), (0.9, "failed")])
def test_after_memory_ran_out_a_cell_runs_once_more_with_twice_its_share(tmp_path, needs, ends):
    one = trial()
    greedy = one.model_copy(update={"importance": one.importance.model_copy(update={"params": {"needs": needs}})})
    whole = two_bases(cells=2)
    whole = plan(*(replace(u, trials=(greedy,)) if u.key == "cell-b-0" else u for u in whole.units))
    run = run_with(tmp_path, cpus=1, gpus=0.25)
    grants = driven(run, whole)
    assert [one["gpus"] for one in grants.pop("cell-b-0")] == [0.25, 0.5]
    assert {one["gpus"] for units in grants.values() for one in units} == {0.25}
    assert {key: outcome.status for key, outcome in run.outcomes.items() if outcome.status != "ok"} == (
        {} if ends == "ok" else {"cell-b-0": "failed"}
    )
    assert any("memory ran out; starting it again, with 0.5 of a GPU" in text for text in run.watcher.said)


def test_a_share_is_measured_once_and_given_to_all_cells(tmp_path):
    """The probe runs first, on a whole GPU, with a made-up device on which four cells side by side end most."""
    run = run_with(tmp_path, cpus=0.25, gpus="auto")
    whole = two_bases(cells=2)
    largest = whole.units[0].trials[0]
    shares = {group_of(largest): Sharing("probe-a", largest)}
    probed = plan(*with_probes(whole.units, shares))
    grants = driven(run, probed, shares)
    assert [one["gpus"] for one in grants.pop("probe-a")] == [1]
    assert {one["gpus"] for units in grants.values() for one in units} == {0.25}
    assert all("0.25 of a GPU each, most cells an hour" in units[0]["note"] for units in grants.values())
    assert {outcome.status for outcome in run.outcomes.values()} == {"ok"}
