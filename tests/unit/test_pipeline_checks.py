"""What is checked before a run, as whole lists of calls: data, recipes, networks, first image sizes, work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.models.foreign import ForeignError
from raybench.pipeline import check
from raybench.plan.records import Unit
from raybench.sweep.trial import MethodRef, Weights
from tests.unit.result_rows import RECIPE, trial

CPU = torch.device("cpu")
FACTS = DataFacts("d", "classification", 10, 1, 8, (0.5,), (0.5,), "")
ROOTS = {"digits": "/data/digits"}
PATHS = {"digits": Path("/data/digits")}
SMALL = RECIPE.base.model_copy(update={"start_scale": 0.5})


def recipe_of(**stages):
    return RECIPE.model_copy(update=stages)


def unit_of(kind: str = "base", **fields) -> Unit:
    return Unit("key", kind, (trial(**fields),))


class Calls:
    """Stand-ins for everything that the check calls, which note their arguments in order."""

    def __init__(self, monkeypatch) -> None:
        self.made, self.answers = [], {"task": self._task(100), "net": nn.Linear(1, 1), "macs": 7}
        for name, answer in (
            ("check_fingerprint", None), ("open_task", "task"), ("fresh_model", "net"), ("check_start", None),
        ):  # fmt: skip
            monkeypatch.setattr(check, name, self.noting(name, answer))
        monkeypatch.setattr("raybench.groups.cost.count_macs", self.noting("count_macs", "macs"))

    def noting(self, name, answer):
        def call(*args, **named):
            self.made.append((name, *args, *([named] if named else [])))
            found = self.answers.get(answer)
            if isinstance(found, BaseException):
                raise found
            return found

        return call

    def _task(self, images: int):
        calls = {name: self.noting(name, name) for name in ("check_recipe", "check")}
        return SimpleNamespace(data=FACTS, training_images=images, **calls)

    def named(self, name: str) -> list[tuple]:
        return [call[1:] for call in self.made if call[0] == name]


@pytest.fixture
def calls(monkeypatch) -> Calls:
    return Calls(monkeypatch)


def test_a_unit_is_checked_with_all_that_its_trial_says(calls) -> None:
    unit = unit_of(dataset_fingerprint="f", dataset_params={"images": 3}, importance="taylor")
    (one,), task, net = unit.trials, calls.answers["task"], calls.answers["net"]
    assert check.check_input([unit], ROOTS, "storage") == {}
    assert calls.made == [
        ("check_fingerprint", "digits", PATHS, "f", {"images": 3}, {"quick": False}),
        ("open_task", one, PATHS, CPU, "storage"),
        ("check_recipe", [one.recipe.base, one.recipe.finetune], 256),
        ("fresh_model", one, task, CPU),
        ("check", net),
    ]


def test_work_of_an_epoch_is_counted_where_networks_or_data_differ(calls) -> None:
    net, task = calls.answers["net"].train(), calls.answers["task"]
    small, large = unit_of(model="test-convnet"), unit_of()
    found = check.check_input([small, large], ROOTS, "storage")
    assert found == {("digits", "test-convnet"): 700.0, ("digits", "cifar-resnet20"): 700.0}
    assert all(isinstance(macs, float) for macs in found.values())
    for model, image in calls.named("count_macs"):
        assert (model is net, model.training, tuple(image.shape), image.device) == (True, False, (1, 1, 8, 8), CPU)
    assert len(calls.named("count_macs")) == len(calls.named("check")) == 2
    assert calls.named("open_task") == [(small.trials[0], PATHS, CPU, "storage")]
    calls.answers["macs"] = ValueError("an operation that isn't known")
    assert check.check_input([small, large], ROOTS, "storage") == dict.fromkeys(found, 0.0)
    task.training_images = 3
    calls.answers["macs"] = 5
    assert check._work(net, task) == 15.0


def test_data_is_opened_once_and_each_network_built_once_where_its_base_is_to_be_made(calls) -> None:
    units = [
        unit_of(), unit_of(base_seed=1), unit_of(seed=2), unit_of("cell"), unit_of(model="test-convnet"),
        unit_of(model_params={"width": 2}), unit_of(model_source="s"), unit_of(weights=Weights(kind="file")),
        unit_of("select", model="test-vit"), unit_of(dataset_params={"a": 1}), unit_of(protocol="pruningbench"),
        unit_of("cell", dataset="cifar10"),
    ]  # fmt: skip
    check.check_input(units, ROOTS, "storage")
    trials = [unit.trials[0] for unit in units]
    assert [one for one, *_ in calls.named("open_task")] == [trials[i] for i in (0, 9, 10, 11)]
    assert [(name, params) for name, _, _, params, _ in calls.named("check_fingerprint")] == [
        ("digits", {}), ("digits", {"a": 1}), ("digits", {}), ("cifar10", {}),
    ]  # fmt: skip
    assert [one for one, *_ in calls.named("fresh_model")] == [trials[i] for i in (0, 4, 5, 6, 7, 9, 10)]
    assert len(calls.named("check_recipe")) == len(units)


def test_first_image_sizes_are_checked_once_for_each_network_and_scale(calls) -> None:
    net, task = calls.answers["net"], calls.answers["task"]
    other = SMALL.model_copy(update={"start_scale": 0.25})
    recipe = recipe_of(base=RECIPE.base, finetune=SMALL)
    several = recipe_of(base=SMALL, finetune=other)
    units = [
        unit_of("cell", recipe=recipe), unit_of("cell", recipe=recipe, seed=1), unit_of("cell", recipe=several),
        unit_of("cell", recipe=recipe, model="test-convnet"), unit_of("cell", recipe=recipe, model_params={"w": 1}),
        unit_of("cell", recipe=recipe, dataset="cifar10"), unit_of("cell", recipe=recipe, dataset_params={"a": 1}),
        unit_of("cell"),
    ]  # fmt: skip
    check.check_input(units, ROOTS, "storage")
    trials = [unit.trials[0] for unit in units]
    expected = [(0, SMALL), (2, other), (3, SMALL), (4, SMALL), (5, SMALL), (6, SMALL)]
    assert calls.named("check_start") == [(net, stage, (1, 8, 8), trials[i].model) for i, stage in expected]
    assert calls.named("fresh_model") == [(trials[i], task, CPU) for i, _ in expected]


def test_images_are_those_of_the_criterion_or_of_the_norms_whichever_are_more(calls) -> None:
    for importance, recalibration, images in (
        ("taylor", 0, 256), ("taylor", 300, 300), ("taylor", 9, 256), ("lamp", 9, 9), ("lamp", 0, 0),
    ):  # fmt: skip
        one = trial(importance=importance, recipe=recipe_of(recalibration_images=recalibration))
        assert check._requirements(one) == ([RECIPE.base, RECIPE.finetune], images)
    assert check._requirements(trial(params={"reconstruct": False}, importance="cp"))[1] == 256


@pytest.mark.parametrize("error", [ForeignError("no weights"), ValueError("bug"), SystemExit(3), MemoryError()])
@pytest.mark.parametrize("where", ["net", "check_recipe", "check"])
def test_errors_that_a_row_will_tell_end_no_check(calls, error, where) -> None:
    calls.answers[where] = error
    units = [unit_of(), unit_of("cell", model="test-convnet")]
    assert check.check_input(units, ROOTS, "storage") == {}
    assert len(calls.named("check_recipe")) == 2


def test_mistakes_are_told_together_and_each_once(calls) -> None:
    calls.answers["net"] = UserError("first")
    units = [unit_of(), unit_of(model="test-convnet"), unit_of(model="test-vit")]
    with pytest.raises(UserError) as caught:
        check.check_input(units, ROOTS, "storage")
    assert str(caught.value) == "first"
    calls.answers["task"] = UserError("second")
    with pytest.raises(UserError) as caught:
        check.check_input([*units, unit_of(dataset_params={"a": 1})], ROOTS, "storage")
    assert str(caught.value) == "second"
    assert len(calls.named("open_task")) == 3  # data that can't be opened is not tried again
    calls.answers |= {"task": calls._task(1), "check_recipe": None}
    errors = iter([UserError("a"), UserError("b"), UserError("a")])
    calls.answers["task"].check_recipe = lambda *args: (_ for _ in ()).throw(next(errors))
    with pytest.raises(UserError) as caught:
        check.check_input(units, ROOTS, "storage")
    assert str(caught.value) == "a\n  b"


def test_ctrl_c_ends_the_check(calls) -> None:
    calls.answers["net"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        check.check_input([unit_of()], ROOTS, "storage")


def test_a_regularizer_adds_its_stage(calls) -> None:
    sparse = RECIPE.sparsify.model_copy(update={"epochs": 9})
    unit = unit_of(regularizer="group-norm", recipe=recipe_of(sparsify=sparse))
    check.check_input([unit], ROOTS, "storage")
    assert calls.named("check_recipe") == [([RECIPE.base, sparse, RECIPE.finetune], 0)]
    assert unit.trials[0].regularizer == MethodRef(name="group-norm")
