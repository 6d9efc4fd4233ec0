"""Whole tables of what a sweep and a trial hold: every field's type, default and bounds, and ids that never change."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from raybench import registry
from raybench.sweep import trial as module
from raybench.sweep.axes import DatasetAxis, MethodAxis, ModelAxis, StrictModel
from raybench.sweep.digests import digest
from raybench.sweep.frozen import Frozen
from raybench.sweep.reader import recipe_files
from raybench.sweep.recipe import Recipe, TrainRecipe
from raybench.sweep.schema import json_schema, method_names
from raybench.sweep.speed import DEFAULTS, EXACT, Speed
from raybench.sweep.trial import MethodRef, Trial, Weights
from tests.field_lines import field_lines

FIELDS = Path(__file__).parents[1] / "golden/fields.txt"


def test_every_field_has_the_type_the_default_and_the_bounds_that_it_had() -> None:
    """Meant to be so? python -m tests.field_lines > tests/golden/fields.txt, and ids of old rows must stay."""
    assert list(field_lines()) == FIELDS.read_text().splitlines()


def test_the_schema_offers_every_name_wherever_one_may_stand() -> None:
    schema = json_schema()
    criteria, regularizers = list(registry.importance.entries()), list(registry.regularizer.entries())
    alone = [name for name in registry.CHOICE.entries() if name not in criteria]
    assert {"resrep", "greg-1", "tpp", "nppm"} <= set(alone)
    methods = criteria + alone + [f"{one}+{other}" for one in criteria for other in regularizers]
    assert method_names() == methods
    names = {
        "models": list(registry.model.entries()), "datasets": list(registry.dataset.entries()), "methods": methods,
        "recipe": sorted(recipe_files(Path())),
    }  # fmt: skip
    for axis, axis_names in names.items():
        for owner in (schema, schema["$defs"]["Include"]):
            if axis not in owner["properties"]:
                continue
            one, *several = owner["properties"][axis]["anyOf"]
            assert one.get("examples") == axis_names or one["anyOf"][0]["examples"] == axis_names
            assert all(axis_names in list(_examples(found)) for found in several if "items" in found)
    for kind, axis in (("ModelAxis", "models"), ("DatasetAxis", "datasets"), ("MethodAxis", "methods")):
        assert schema["$defs"][kind]["properties"]["name"]["examples"] == names[axis]
        assert schema["$defs"][kind]["properties"]["recipe"]["anyOf"][0]["examples"] == names["recipe"]


def _examples(found):
    if isinstance(found, dict):
        for key, value in found.items():
            yield from [value] if key == "examples" else _examples(value)
    elif isinstance(found, list):
        for one in found:
            yield from _examples(one)


@pytest.mark.parametrize("base", [StrictModel, Frozen, Speed])
def test_records_are_frozen_and_refuse_what_they_do_not_know(base) -> None:
    class Own(base):
        count: int = 1

    made = Own(count=2)
    with pytest.raises(ValidationError, match="frozen"):
        made.count = 3
    with pytest.raises(ValidationError, match="Extra inputs"):
        Own(other=1)
    if base is StrictModel:
        with pytest.raises(ValidationError, match="valid integer"):
            Own(count="1")


STAGE = TrainRecipe(epochs=3, lr=0.25)
OTHER = TrainRecipe(
    epochs=7, batch_size=32, optimizer="adamw", lr=0.5, momentum=0.5, nesterov=True, weight_decay=0.125,
    schedule="multistep", milestones=(2, 5), step_size=4, gamma=0.5, warmup_epochs=1.5, min_lr=0.0625, clip_grad=1.0,
    label_smoothing=0.25, mixup=0.5, cutmix=0.75, randaugment=9, random_erasing=0.25, augment=("flip", "crop"),
    ema=0.75, distill=0.5, amp=True, start_scale=0.5,
)  # fmt: skip
RECIPE = Recipe(name="r", base=STAGE, finetune=STAGE)
RICH = Recipe(
    name="rich", base=OTHER, sparsify=STAGE, finetune=OTHER, calibration_images=100, calibration_batch=10,
    recalibration_images=50, speed=Speed(precision="bf16", compile="auto"),
)  # fmt: skip
LAMP = MethodRef(name="lamp", params={"a": 1, "b": 2.0, "c": "x", "d": True}, version=3, seeded=False)
PENALTY = MethodRef(name="group-norm", params={"strength": 0.5}, source="5" * 64)
TRIALS = {
    "plain": {},
    "rich recipe": {"recipe": RICH},
    "data": {"dataset_params": {"split": 1}, "dataset_version": 2, "dataset_fingerprint": "0123456789abcdef"},
    "model": {"model_params": {"width": 8}, "model_version": 4, "model_source": "6" * 64},
    "detection": {"task": "detection"},
    "file": {"weights": Weights(kind="file", identity="7" * 64, path="/somewhere/w.pth")},
    "hub": {"weights": Weights(kind="hub", identity="timm:a@b")},
    "new head": {"weights": Weights(kind="hub", identity="timm:a@b", new_head=True)},
    "unseeded": {"importance": LAMP, "seed": 5},
    "regularizer": {"regularizer": PENALTY, "seed": 5, "recipe": RICH},
    "strategy and speed-up": {"strategy": "local", "speedup": 4.5},
    "seeds": {"seed": 2, "base_seed": 3},
    "published": {"protocol": "pruningbench"},
    "published with a regularizer": {"protocol": "pruningbench", "regularizer": PENALTY},
    "schedule": {"schedule": "iterative"},
    "parts": {"prune": ("embed", "mlp"), "regularizer": PENALTY},
    "kept": {"keep": ("a.*",), "regularizer": PENALTY},
    "only": {"only": ("b.*", "c"), "regularizer": PENALTY},
    "rounded": {"round_to": 8},
    "on a GPU": {"device": "cuda", "threads": None},
    "threads": {"threads": 4},
    "variables": {"environment": {"MKL_CBWR": "AVX2", "OMP_DYNAMIC": "true"}},
    "ratio": {"ratio": 0.5},
}
KEYS = ("trial_id", "base_identity", "base_key", "sparsify_key", "pass_key", "select_key")
IDS = dict(line.split(": ", 1) for line in (FIELDS.parent / "ids.txt").read_text().splitlines())


def made(case: str) -> Trial:
    importance = MethodRef(name="taylor", params={"p": 2})
    plain = {"dataset": "digits", "model": "net", "importance": importance, "speedup": 2.0, "recipe": RECIPE}
    return Trial(**(plain | TRIALS[case]))


@pytest.mark.parametrize("case", TRIALS)
def test_ids_and_keys_of_trials_stay(case, monkeypatch) -> None:
    """Rows that exist are found by these: none of them may change but by a version."""
    for name, value in (("TRAINING", 1), ("SELECTION", 2), ("PUBLISHED", 1)):
        monkeypatch.setattr(module, name, value)
    assert " ".join(str(getattr(made(case), key)) for key in KEYS) == IDS[case]


def test_no_two_of_them_share_an_id_or_a_selection() -> None:
    trials = [made(case) for case in TRIALS]
    for key in ("trial_id", "select_key"):
        assert len({getattr(one, key) for one in trials}) == len(trials)
    assert all(len(one.trial_id) == 16 for one in trials)
    assert digest("a", 1, {"b": [1.0]}) != digest("a", 1, {"b": [1]})


def test_what_a_trial_says_of_itself() -> None:
    plain, both, ratio = made("plain"), made("regularizer"), made("ratio")
    assert (plain.method, both.method) == ("taylor", "taylor+group-norm")
    assert (plain.speedup_target, ratio.speedup_target) == (2.0, None)
    assert (made("seeds").selection_seed, made("unseeded").selection_seed) == (2, 0)
    assert (plain.chosen, made("kept").chosen, made("only").chosen) == ({}, {"keep": ("a.*",)}, {"only": ("b.*", "c")})
    assert plain.speed == EXACT
    assert both.speed == EXACT.model_copy(update={"precision": "bf16", "compile": "auto"})
    assert [one.trained for one in (Weights(), *(made(c).weights for c in ("file", "hub", "new head")))] == [
        True, False, False, True,
    ]  # fmt: skip


def test_what_says_nothing_is_left_out_of_what_is_written() -> None:
    assert made("plain").model_dump(mode="json") == {
        "dataset": "digits", "dataset_params": {}, "dataset_version": 1, "dataset_fingerprint": None, "model": "net",
        "model_params": {}, "model_version": 1, "model_source": None, "task": "classification",
        "weights": {"kind": "trained", "identity": ""},
        "importance": {"name": "taylor", "params": {"p": 2}, "version": 1, "source": None, "seeded": True},
        "regularizer": None, "strategy": "protected-global", "speedup": 2.0, "seed": 0, "base_seed": 0,
        "protocol": "raybench", "schedule": "progressive", "prune": [], "keep": [], "only": [], "round_to": 1,
        "device": "cpu", "threads": 1, "ratio": None, "recipe": RECIPE.model_dump(mode="json"),
    }  # fmt: skip
    assert RECIPE.model_dump().keys() == {
        "name", "base", "sparsify", "finetune", "calibration_images", "calibration_batch",
    }  # fmt: skip
    assert RICH.model_dump()["speed"] == {"precision": "bf16", "compile": "auto"}
    assert RICH.model_dump()["recalibration_images"] == 50
    assert ("start_scale" in STAGE.model_dump(), OTHER.model_dump()["start_scale"]) == (False, 0.5)
    assert made("variables").model_dump()["environment"] == {"MKL_CBWR": "AVX2", "OMP_DYNAMIC": "true"}
    assert made("file").weights.model_dump() == {"kind": "file", "identity": "7" * 64}
    assert made("new head").weights.model_dump() == {"kind": "hub", "identity": "timm:a@b", "new_head": True}
    for case in TRIALS:
        again = Trial.model_validate_json(made(case).model_dump_json())
        assert again.trial_id == made(case).trial_id


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"warmup_epochs": 3}, []),
        ({"warmup_epochs": 3.5}, [("warmup_epochs", "found 3.5, expected at most the 3 epochs of this stage")]),
        ({"epochs": 0, "warmup_epochs": 3.5}, []),
        ({"epochs": 1, "warmup_epochs": 1.5}, [
            ("warmup_epochs", "found 1.5, expected at most the 1 epoch of this stage"),
        ]),
        ({"nesterov": True, "momentum": 0}, [("nesterov", "found true with momentum 0, expected a momentum above 0")]),
        ({"nesterov": True, "momentum": 0.5}, []),
        ({"momentum": 0}, []),
        ({"nesterov": True, "momentum": 0, "optimizer": "adamw"}, []),
    ],
)  # fmt: skip
def test_contradictions_of_a_stage_and_of_a_recipe(changes, found) -> None:
    stage = STAGE.model_copy(update=changes)
    assert list(stage.contradictions()) == found
    for name in ("base", "sparsify", "finetune"):
        recipe = RECIPE.model_copy(update={name: stage})
        assert list(recipe.contradictions()) == [(message, (name, key)) for key, message in found]


ALL = {"precision": "fp32", "memory_format": "nchw", "deterministic": True, "graphs": "off", "compile": "off"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("protocol", ["raybench", "pruningbench"])
def test_speed_is_filled_in_and_told_only_where_it_differs(device, protocol, monkeypatch) -> None:
    assert DEFAULTS[device].model_dump() == ALL
    own = Speed(precision="bf16", memory_format="auto", deterministic=False, graphs="auto", compile="auto")
    assert Speed().filled(device, protocol).model_dump() == ALL
    assert own.filled(device, protocol) == own
    assert Speed(compile="auto").filled(device, protocol).model_dump() == ALL | {"compile": "auto"}
    assert Speed(**ALL).canonical(device, protocol) == Speed()
    differs = {"precision": "bf16", "memory_format": "auto", "compile": "auto"}
    only_there = {} if device == "cpu" else {"deterministic": False, "graphs": "auto"}
    assert own.canonical(device, protocol).model_dump() == differs | only_there
    monkeypatch.setitem(DEFAULTS, device, Speed(**ALL | {"precision": "bf16"}))
    expected = "fp32" if protocol == "pruningbench" else "bf16"
    assert Speed().filled(device, protocol).model_dump() == ALL | {"precision": expected}


def test_precisions_that_a_device_does_not_have() -> None:
    message = ("precision", "found tf32, which only GPUs have; expected fp32 or bf16 on a CPU")
    assert list(Speed(precision="tf32").impossible("cpu")) == [message]
    assert not list(Speed(precision="tf32").impossible("cuda"))
    assert not list(Speed(precision="bf16").impossible("cpu"))


@pytest.mark.parametrize("axis", [DatasetAxis, ModelAxis, MethodAxis])
def test_an_entry_of_an_axis_overrides_nothing_by_itself(axis) -> None:
    name = {DatasetAxis: "digits", ModelAxis: "test-vit", MethodAxis: "lamp"}[axis]
    entry = axis(name=name)
    own = {"speedups", "seeds", "strategies", "schedule", "prune", "keep", "only", "round_to", "recipe"}
    assert {field: getattr(entry, field) for field in own} == dict.fromkeys(own)
    assert entry.params == {}
