"""`gpus: auto` and resources of models: arithmetic, plan, and the probe, on made-up devices and on this processor."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from raybench.execution.grants import Grants
from raybench.pipeline.context import StageContext
from raybench.pipeline.probe import measured, run_probe
from raybench.pipeline.probe_copy import NoMemory
from raybench.plan.plan import plan, plan_trials
from raybench.plan.records import Unit
from raybench.plan.share import Copies, Share, encode_share, file_of, read_share
from raybench.storage.local import LocalStorage
from raybench.sweep.resolve import resolve
from raybench.sweep.resources import Resources

from .result_rows import trial
from .sweeps import sweep


class MadeUp:
    """A device with curves of memory and step time over the number of copies."""

    name = "made up"

    def __init__(self, total_mb, memory_mb, step_s):
        self.total_mb, self._memory_mb, self._step_s, self.asked = total_mb, memory_mb, step_s, []

    def beside(self, copies):
        self.asked.append(copies)
        if copies * self._memory_mb > self.total_mb:
            raise NoMemory
        return self._memory_mb, self._step_s(copies)


@pytest.mark.parametrize(("memory_mb", "step_s", "cores", "copies", "asked"), [
    (100, lambda n: 0.1, 64, 8, [1, 2, 4, 8]),  # a small network: copies cost one another nothing
    (100, lambda n: 0.1 * n, 64, 1, [1, 2, 4, 8]),  # one copy fills the device: equals, so the largest share
    (100, lambda n: 0.1 * max(1, n / 3), 64, 4, [1, 2, 4, 8]),  # three fill it: four and eight are equals
    (100, lambda n: 0.1 if n < 3 else n, 64, 2, [1, 2, 4, 8]),
    (300, lambda n: 0.1, 64, 2, [1, 2, 4]),  # memory
    (2000, lambda n: 0.1, 64, 1, [1]),
    (100, lambda n: 0.1, 5, 4, [1, 2, 4]),  # cores
])  # fmt: skip
def test_the_share_is_that_of_most_cells_an_hour(memory_mb, step_s, cores, copies, asked):
    device = MadeUp(1000, memory_mb, step_s)
    share = measured(trial(), device, steps=1800, most=cores)
    assert (share.copies, device.asked) == (copies, asked)
    assert share.gpus == 1 / copies
    for one in share.measured:
        assert one.cells_an_hour == pytest.approx(one.copies * 3600 / (1800 * step_s(one.copies)))
    if share.measured:
        assert share.sentence.startswith(
            f"cifar-resnet20 on digits: {1 / copies:g} of a GPU each, most cells an hour (1: "
        )
    else:
        assert share.sentence == "cifar-resnet20 on digits: a whole GPU each, not measured: no memory for 1"


def test_a_table_survives_its_file_and_a_damaged_one_is_none(tmp_path):
    storage = LocalStorage(tmp_path)
    share = Share("digits", "net", "made up", 1000.0, (Copies(1, 10.0, 0.1, 20.0), Copies(2, 10.0, 0.1, 40.0)), "why")
    storage.create(file_of("k"), encode_share(share))
    assert read_share(storage, "k") == share
    assert read_share(storage, "other") is None
    good = encode_share(share)
    for bad in (b"", good[:40], good.replace(b'"copies": 2', b'"copies": 3'), good.replace(b"40.0", b"NaN"), b"[]"):
        storage.replace(file_of("k"), bad)
        assert read_share(storage, "k") is None
    storage.replace(file_of("k"), good.replace(b'"why":', b'"newer": 1, "why":'))
    assert read_share(storage, "k") == share


AUTO = {"resources": {"cpus": 1, "gpus": "auto"}, "models": ["test-convnet", "cifar-resnet20"]}


def test_a_plan_begins_with_a_probe_of_each_model_and_dataset_until_it_is_measured(tmp_path):
    storage, made = LocalStorage(tmp_path), sweep(**AUTO)
    first = plan(made, storage)
    probes = [unit for unit in first.units if unit.kind == "probe"]
    assert [unit.trials[0].model for unit in probes] == ["test-convnet", "cifar-resnet20"]
    assert first.units[: len(probes)] == tuple(probes)
    keys = {unit.trials[0].model: unit.key for unit in probes}
    assert all(keys[unit.trials[0].model] in unit.needs for unit in first.units if unit.kind != "probe")
    share = Share("digits", "test-convnet", "x", 1.0, (Copies(4, 1.0, 1.0, 1.0),))
    storage.create(file_of(keys["test-convnet"]), encode_share(share))
    second = plan(made, storage)
    assert [unit.key for unit in second.units if unit.kind == "probe"] == [keys["cifar-resnet20"]]
    assert [sharing.share for sharing in second.shares.values()] == [share, None]


def test_the_largest_batch_is_measured_and_others_are_measured_anew():
    keys = set()
    for batch in (16, 64):
        small = trial(device="cuda", threads=None)
        stage = small.recipe.finetune.model_copy(update={"batch_size": batch})
        large = small.model_copy(update={"recipe": small.recipe.model_copy(update={"base": stage})})
        (probe,) = (u for u in plan_trials([small, large], Resources(gpus="auto")).units if u.kind == "probe")
        assert probe.trials[0].recipe.base.batch_size == max(batch, small.recipe.finetune.batch_size)
        keys.add(probe.key)
    small_batch = trial().recipe.finetune.batch_size
    assert len(keys) == (2 if small_batch < 64 else 1)


def test_ids_do_not_depend_on_shares_and_a_model_without_a_gpu_needs_no_probe():
    ids = {name: {t.trial_id for t in resolve(sweep(resources={"gpus": gpus}))} for name, gpus in
           {"auto": "auto", "half": 0.5, "whole": 1}.items()}  # fmt: skip
    assert ids["auto"] == ids["half"] == ids["whole"]
    mixed = plan(sweep(resources={"gpus": "auto", "models": {"test-*": {"gpus": 0}}}, models=AUTO["models"]))
    assert {unit.trials[0].model for unit in mixed.units if unit.kind == "probe"} == {"cifar-resnet20"}
    assert {(t.model, t.device) for t in mixed.trials} == {("test-convnet", "cpu"), ("cifar-resnet20", "cuda")}


def test_resources_of_models_are_in_ids_as_the_sweeps_own_are():
    own = resolve(sweep(resources={"cpus": 3}))
    of_model = resolve(sweep(resources={"models": {"test-*": {"cpus": 3}}}))
    assert [t.trial_id for t in own] == [t.trial_id for t in of_model]
    assert {t.threads for t in of_model} == {3}


@pytest.mark.parametrize(("resources", "device", "message"), [
    ({"models": {"test-convent": {"cpus": 2}}}, "auto", "found 'test-convent', expected a name or glob of this "
     "sweep's models: test-convnet, test-vit. Did you mean 'test-convnet'?"),
    ({"models": {"resnet*": {"cpus": 2}}}, "auto", "found 'resnet*', expected a name or glob of this sweep's models"),
    ({"models": {"test-convnet": {}}}, "auto", "found no key, expected at least one of cpus, gpus, memory, processes, "
     "timeout"),
    ({"gpus": "atuo"}, "auto", "found 'atuo', expected a number or auto. Did you mean 'auto'?"),
    ({"gpus": "auto"}, "cpu", "found auto, expected a number: the sweep's device is cpu"),
    ({"models": {"test-*": {"gpus": "auto"}}}, "cpu", "found auto, expected a number: the sweep's device is cpu"),
])  # fmt: skip
def test_mistakes_in_resources_are_named(resources, device, message):
    with pytest.raises(ValidationError) as error:
        sweep(resources=resources, device=device)
    assert message in str(error.value)


def cell(key="cell-a", **fields):
    return Unit(key, "cell", (trial(**fields),))


def test_grants_follow_model_measurement_and_memory(tmp_path):
    storage = LocalStorage(tmp_path)
    resources = Resources(cpus=1, gpus="auto", timeout={"base": 9}, models={"mine": {"gpus": 0.3, "memory": "1GiB"}})
    grants = Grants(resources, storage)
    unit, mine = cell(), cell("cell-b", model="mine")
    assert (grants.of(unit).gpus, grants.of(unit).note) == (1, "")
    share = Share("digits", "cifar-resnet20", "x", 1.0, (Copies(8, 1.0, 1.0, 1.0),))
    known = plan_trials([trial(device="cuda", threads=None)], resources, storage).shares
    storage.create(file_of(next(iter(known.values())).key), encode_share(share))
    grants.load(known)
    assert (grants.of(unit).gpus, grants.of(unit).note) == (0.125, share.note)
    assert grants.of(replace(unit, kind="probe")).gpus == 1
    assert grants.of(mine).demand == {"CPU": 1, "GPU": 0.3, "memory": 2**30}
    assert grants.of(mine).timeouts == {"base": 9}
    for expected in (0.6, 1.0, 1.0):
        grants.after_memory_ran_out(mine)
        assert grants.of(mine).gpus == expected
    assert grants.after_memory_ran_out(unit) == "memory ran out at 0.125 of a GPU, started again with 0.25"
    assert grants.of(unit).note == f"{share.note}; memory ran out at 0.125 of a GPU, started again with 0.25"
    grants.settle_unmeasured(Unit("probe-z", "probe", unit.trials), "RuntimeError: broken")
    assert read_share(storage, "probe-z").sentence == (
        "cifar-resnet20 on digits: a whole GPU each, not measured: RuntimeError: broken"
    )


def probed(tmp_path, device=None, **fields):
    context = StageContext(LocalStorage(tmp_path))
    unit = Unit("probe-x", "probe", (trial(model="test-convnet", **fields),))
    stages = []
    summary = run_probe(unit, context, stages.append, lambda **facts: None, device)
    assert stages == ["probe"]
    return read_share(context.storage, "probe-x"), summary


def test_a_probe_publishes_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr("raybench.pipeline.probe.usable_cores", lambda: 64)
    made_up = MadeUp(1000, 10, lambda n: 0.5 * max(1, n / 2))
    share, summary = probed(tmp_path, lambda trial, context: made_up)
    assert (share.copies, summary) == (2, {"copies": 2})
    recipe = trial().recipe.finetune
    steps = recipe.epochs * math.ceil(1293 / recipe.batch_size)
    assert share.measured[0].cells_an_hour == pytest.approx(3600 / (0.5 * steps), rel=0.1)


def test_a_copy_is_really_measured_here(tmp_path, monkeypatch):
    """One process, on the processor: what a GPU's copies do but for torch.cuda's own calls."""
    monkeypatch.setattr("raybench.pipeline.probe.usable_cores", lambda: 1)
    share, _ = probed(tmp_path)
    assert [one.copies for one in share.measured] == [1]
    assert share.why == "its cores hold 1"
    assert 0 < share.measured[0].step_s < 5
    assert 20 < share.measured[0].memory_mb < share.total_mb
