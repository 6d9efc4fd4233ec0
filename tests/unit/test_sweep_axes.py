"""Entries of axes, sweeps as a whole and their trials: every refusal with its path, every field that is filled in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybench import registry
from raybench.catalogue import REQUIRED
from raybench.sweep.axes import DatasetAxis, MethodAxis, ModelAxis, checked, distinct, resolved
from raybench.sweep.resolve import resolve
from raybench.sweep.sweep import Sweep
from tests.unit.sweeps import AXES, RECIPE, problems_of, sweep

NO_WEIGHTS = "found 'pretrained', expected 'trained' or a file: no published weights are known for"
NO_FILE = "expected 'trained', 'pretrained' or a file; there is no such file."
MODELS = [
    ({"name": "timm:"}, [("found 'timm:', expected a registered name, timm:NAME or module:function", ("name",))]),
    ({"name": "a:b:c"}, [("found 'a:b:c', expected a registered name, timm:NAME or module:function", ("name",))]),
    ({"name": "a:b", "weights": "pretrained"}, [
        (f"{NO_WEIGHTS} 'a:b'", ("weights",)),
    ]),
    ({"name": "test-vit", "weights": "pretrained"}, [
        (f"{NO_WEIGHTS} 'test-vit'", ("weights",)),
    ]),
    ({"name": "test-vit", "weights": "/x/pretraned"}, [
        (f"found '/x/pretraned', {NO_FILE} Did you mean 'pretrained'?", ("weights",)),
    ]),
    ({"name": "test-vit", "weights": "/x/y.pth"}, [(f"found '/x/y.pth', {NO_FILE}", ("weights",))]),
    ({"name": "test-vit", "new_head": True}, [
        ("found true, expected false: without weights of others the whole network is new", ("new_head",)),
    ]),
    ({"name": "test-convnet", "params": {"widht": 1, "width": "x"}}, [
        ("unknown parameter of model 'test-convnet'. Did you mean 'width'? Known: ", ("params", "widht")),
        ("found 'x', expected a whole number", ("params", "width")),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), MODELS)
def test_models_that_cannot_be(fields, expected) -> None:
    found = problems_of(ModelAxis, fields)
    assert [path for _, path in found] == [path for _, path in expected]
    for (message, _), (start, _) in zip(found, expected, strict=True):
        assert message.startswith(start) if start.endswith(" ") else message == start


def test_an_unknown_model_is_the_only_mistake_whatever_else_it_says(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def net(): ...\n")
    for name, start in (
        ("test-vitt", "unknown model 'test-vitt'. Did you mean 'test-vit'?"),
        ("mine", "found 'mine', expected module:function. mine.py is in this folder: type mine:net"),
    ):
        ((message, path),) = problems_of(ModelAxis, {"name": name, "weights": "pretrained", "params": {"nothing": 1}})
        assert (message.startswith(start), path) == (True, ("name",))


def test_models_that_may_be(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "w.pth"
    file.touch()
    for fields in (
        {"name": "timm:anything", "weights": "pretrained", "new_head": True},
        {"name": "resnet18", "weights": "pretrained"},
        {"name": "test-vit", "weights": str(file), "new_head": True},
        {"name": "a.b:c", "weights": str(file), "params": {"x": 1}},
    ):
        made = ModelAxis.model_validate(fields)
        assert {key: getattr(made, key) for key in fields} == fields
    assert ModelAxis.model_validate({"name": "nets/mine.py:net"}).name == "nets.mine:net"


def test_datasets_and_methods_that_cannot_be(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((message, path),) = problems_of(DatasetAxis, {"name": "digit", "params": {"x": 1}})
    assert message.startswith("unknown dataset 'digit'. Did you mean 'digits'? Known: ")
    assert message.endswith(". Class folders of your own images: imagefolder")
    assert path == ("name",)
    ((message, path),) = problems_of(DatasetAxis, {"name": "digits", "params": {"splitseed": 1}})
    assert (message.startswith("unknown parameter of dataset 'digits'."), path) == (True, ("params", "splitseed"))
    both = problems_of(MethodAxis, {"name": "lam+group-nrm", "params": {"x": 1}, "regularizer_params": {"y": 1}})
    assert [(message.partition("?")[0], path) for message, path in both] == [
        ("unknown method 'lam'. Did you mean 'lamp'", ("name",)),
        ("unknown regularizer 'group-nrm'. Did you mean 'group-norm'", ("name",)),
    ]  # fmt: skip
    assert [path for _, path in problems_of(MethodAxis, {"name": "lamp+"})] == [("name",)]
    ((message, _),) = problems_of(MethodAxis, {"name": "my-criterion"})
    assert message.endswith(". A method of your own needs --plugin FILE")
    assert problems_of(MethodAxis, {"name": "lamp", "regularizer_params": {"strength": 1}}) == [(
        "found parameters of a regularizer, but 'lamp' has none; expected lamp+REGULARIZER", ("regularizer_params",),
    )]  # fmt: skip
    wrong = {"name": "cp+group-norm", "params": {"points": 0}, "regularizer_params": {"strenght": 1}}
    (first, one), (second, two) = problems_of(MethodAxis, wrong)
    assert (first, one) == ("found 0, expected at least 1", ("params", "points"))
    assert second.startswith("unknown parameter of regularizer 'group-norm'. Did you mean 'strength'? Known: ")
    assert two == ("regularizer_params", "strenght")
    fine = MethodAxis(name="cp+group-norm", params={"points": 3}, regularizer_params={"strength": 1})
    assert (fine.importance, fine.regularizer) == ("cp", "group-norm")
    assert (MethodAxis(name="lamp").importance, MethodAxis(name="lamp").regularizer) == ("lamp", None)


def test_parameters_are_resolved_and_required() -> None:
    own = registry.importance.entry("cp")
    entry = replace(own, params={"points": 10, "share": 0.5, "word": "x", "must": REQUIRED, "odd": [1], "none": None})
    assert resolved(entry, {"must": 3, "share": 1}) == {"points": 10, "share": 1.0, "word": "x", "must": 3}
    assert type(resolved(entry, {"must": 3, "share": 1})["share"]) is float
    assert checked({"must": 3}, entry) == {"must": 3}
    assert checked({"anything": 1}, None) == {"anything": 1}
    with pytest.raises(Exception, match="needs the parameter") as error:
        checked({"points": 1}, entry)
    assert error.value.context == {"message": "criterion 'cp' needs the parameter 'must'", "at": [], "more": []}
    bare = replace(entry, params={})
    with pytest.raises(Exception, match="unknown parameter") as error:
        checked({"p": 1}, bare)
    assert error.value.context["message"] == "unknown parameter of criterion 'cp'. Known: none"


def test_a_missing_parameter_is_told_though_none_are_given(monkeypatch) -> None:
    entry = registry.dataset.entry("digits")
    needy = {**registry.dataset.entries(), "digits": replace(entry, params={"must": REQUIRED})}
    monkeypatch.setattr(registry.dataset, "_entries", needy)
    assert problems_of(DatasetAxis, {"name": "digits"}) == [
        ("dataset 'digits' needs the parameter 'must'", ("params",))
    ]
    for kind, axis, field in (
        ("importance", "lamp", "params"),
        ("regularizer", "lamp+group-norm", "regularizer_params"),
    ):
        names = getattr(registry, kind)
        name = axis.rpartition("+")[2]
        monkeypatch.setattr(
            names, "_entries", {**names.entries(), name: replace(names.entry(name), params={"must": REQUIRED})}
        )
        assert problems_of(MethodAxis, {"name": axis}) == [
            (f"{names.noun} {name!r} needs the parameter 'must'", (field,))
        ]
        monkeypatch.undo()
        monkeypatch.setattr(registry.dataset, "_entries", needy)


def test_doubles_are_told_by_place_and_name() -> None:
    entries = (DatasetAxis(name="digits"), DatasetAxis(name="digits", seeds=1), DatasetAxis(name="digits"))
    assert distinct((1, 2, 3)) == (1, 2, 3)
    assert distinct(entries[:2]) == entries[:2]
    with pytest.raises(Exception, match="twice") as error:
        distinct((1, "a", 1.0, "a", 2))
    assert error.value.context == {
        "message": "found 1.0 twice, expected each value once", "at": [2],
        "more": [{"message": "found 'a' twice, expected each value once", "at": [3]}],
    }  # fmt: skip
    with pytest.raises(Exception, match="twice") as error:
        distinct(entries)
    assert error.value.context == {"message": "found 'digits' twice, expected each value once", "at": [2], "more": []}


RATIO = {"speedups": [1 / (1 - 0.5)], "ratio": 0.5}
LISTED = {"models": ["test-convnet", "test-vit"], "seeds": [0, 1], "speedups": [2.0, 4.0]}
OWN_STEPS = "expected none: protocol pruningbench has its own 400 steps"
ONE_STEP = "expected one-shot or none: a ratio is one step"
TF32 = "found tf32, which only GPUs have; expected fp32 or bf16 on a CPU"
BAD_STAGE = {"epochs": 1, "lr": 0.1, "warmup_epochs": 2}
WARM = "found 2, expected at most the 1 epoch of this stage"
SWEEPS = [
    ({"protocol": "pruningbench", "schedule": "iterative"}, [(f"found 'iterative', {OWN_STEPS}", ("schedule",))]),
    ({"protocols": ["raybench", "pruningbench"], "schedule": "one-shot"}, [
        (f"found 'one-shot', {OWN_STEPS}", ("schedule",)),
    ]),
    ({"protocol": "pruningbench", "models": [{"name": "test-vit", "schedule": "iterative"}, "test-convnet"],
      "datasets": {"name": "digits", "schedule": "one-shot"},
      "methods": ["lamp", {"name": "cp", "schedule": "iterative"}],
      "include": {"models": {"name": "test-vit", "schedule": "one-shot"}}}, [
        (f"found 'iterative', {OWN_STEPS}", ("models", 0, "schedule")),
        (f"found 'one-shot', {OWN_STEPS}", ("datasets", 0, "schedule")),
        (f"found 'iterative', {OWN_STEPS}", ("methods", 1, "schedule")),
        (f"found 'one-shot', {OWN_STEPS}", ("include", 0, "models", 0, "schedule")),
    ]),
    (RATIO | {"schedule": "progressive"}, [(f"found 'progressive', {ONE_STEP}", ("schedule",))]),
    (RATIO | {"speedups": [3.0]}, [("found speedups beside it, expected one of the two", ("ratio",))]),
    (RATIO | {"speedups": [2.0, 3.0]}, [("found speedups beside it, expected one of the two", ("ratio",))]),
    (RATIO | {"protocols": "pruningbench"}, [
        ("found a ratio, expected speedups: protocol pruningbench prunes to a speed-up", ("ratio",)),
    ]),
    (RATIO | {"models": {"name": "test-vit", "speedups": 2}, "include": {"methods": {"name": "lamp", "speedups": 3},
                                                                          "speedups": 3}}, [
        ("found speedups, expected none: the sweep has a ratio", ("models", 0, "speedups")),
        ("found speedups, expected none: the sweep has a ratio", ("include", 0, "methods", 0, "speedups")),
        ("found speedups, expected none: the sweep has a ratio", ("include", 0, "speedups")),
    ]),
    ({"recipe": RECIPE | {"finetune": BAD_STAGE}}, [(WARM, ("recipe", "finetune", "warmup_epochs"))]),
    ({"recipes": [RECIPE, RECIPE | {"name": "q", "base": BAD_STAGE}]}, [
        (WARM, ("recipes", 1, "base", "warmup_epochs")),
    ]),
    ({"models": {"name": "test-vit", "recipe": RECIPE | {"sparsify": BAD_STAGE}}}, [
        (WARM, ("models", 0, "recipe", "sparsify", "warmup_epochs")),
    ]),
    ({"recipe": RECIPE | {"speed": {"precision": "tf32"}}}, [(TF32, ("recipe", "speed", "precision"))]),
    ({"recipe": RECIPE | {"recalibration_images": 9}, "protocol": "pruningbench"}, [
        ("found 9, expected 0: protocol pruningbench measures none anew", ("recipe", "recalibration_images")),
    ]),
    ({"exclude": [{"models": "test-vit"}, {"models": ["test-vitt", "x"], "seeds": 7}]}, [
        ("found 'test-vitt', expected one of this sweep's models: test-convnet, test-vit. Did you mean 'test-vit'?",
         ("exclude", 1, "models")),
        ("found 'x', expected one of this sweep's models: test-convnet, test-vit", ("exclude", 1, "models")),
        ("found 7, expected one of this sweep's seeds: 0, 1", ("exclude", 1, "seeds")),
    ]),
    ({"exclude": {"speedups": 3}}, [
        ("found 3.0, expected one of this sweep's speedups: 2.0, 4.0", ("exclude", 0, "speedups")),
    ]),
    ({"data_roots": {"digit": "x", "digits": "y", "kokos": "z"}}, [
        ("unknown dataset 'digit'. Did you mean 'digits'?", ("data_roots", "digit")),
        ("unknown dataset 'kokos'", ("data_roots", "kokos")),
    ]),
    ({"seeds": [0, 1, 0]}, [("found 0 twice, expected each value once", ("seeds", 2))]),
    ({"include": {}}, [("found no axis, expected at least one: these would be the sweep's own cells", ("include", 0))]),
    ({"exclude": {}}, [("found no axis, expected at least one: this would exclude every cell", ("exclude", 0))]),
    ({"seeds": list(range(400)), "speedups": [1 + i / 500 for i in range(1, 500)]}, [
        ("found axes whose product is 1,197,600 cells, expected at most 1,000,000: split the sweep", ()),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), SWEEPS)
def test_sweeps_that_contradict_themselves(changes, expected) -> None:
    found = problems_of(Sweep, AXES | LISTED | changes)
    assert [path for _, path in found] == [path for _, path in expected]
    for (message, _), (start, _) in zip(found, expected, strict=True):
        assert message == start or (message.startswith(start) and "data_roots" in changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "pruningbench", "schedule": "progressive"},
        {"protocol": "pruningbench", "schedule": "auto"},
        RATIO | {"schedule": "one-shot"},
        RATIO | {"schedule": "auto"},
        {"schedule": "iterative"},
        {"recipe": RECIPE | {"speed": {"precision": "tf32"}}, "device": "cuda"},
        {"recipe": RECIPE | {"recalibration_images": 9}},
        {"seeds": list(range(400)), "speedups": [1 + i / 500 for i in range(1, 401)]},
        {"exclude": {"strategies": "protected-global", "methods": "taylor"}},
        {"exclude": {"models": "cifar-resnet20"}, "include": {"models": "cifar-resnet20"}},
        {"exclude": {"seeds": 9}, "models": ["test-vit", {"name": "test-convnet", "seeds": 9}]},
        {"exclude": {"speedups": 9}, "include": {"speedups": 9}},
    ],
)  # fmt: skip
def test_sweeps_that_do_not(changes) -> None:
    Sweep.model_validate(AXES | LISTED | changes)


def test_a_ratio_is_a_speed_up_by_name_alone() -> None:
    fields = {key: value for key, value in AXES.items() if key != "speedups"}
    for ratio, label in ((0.5, 2.0), (0.75, 4.0), (0.001, 1 / 0.999)):
        made = Sweep.model_validate(fields | {"ratio": ratio})
        assert (made.ratio, made.speedups) == (ratio, (label,))
    for wrong in (0, 1, 1.0, 0.0, "x", -0.5):
        assert ("ratio",) in [path for _, path in problems_of(Sweep, fields | {"ratio": wrong})]
    assert problems_of(Sweep, 3) == [("found 3, expected a mapping", ())]


@pytest.mark.parametrize(
    ("changes", "device", "threads"),
    [
        ({}, "cpu", 1), ({"resources": {"cpus": 3.9}}, "cpu", 3), ({"resources": {"cpus": 0.5}}, "cpu", 1),
        ({"threads": 7, "resources": {"cpus": 2}}, "cpu", 7), ({"resources": {"gpus": 0.5}}, "cuda", 1),
        ({"device": "cpu", "resources": {"gpus": 1}}, "cpu", 1), ({"device": "cuda"}, "cuda", 1),
    ],
)  # fmt: skip
def test_what_cells_compute_on(changes, device, threads) -> None:
    made = sweep(**changes)
    assert (made.device_of("test-convnet"), made.threads_of("test-convnet")) == (device, threads)
    (trial,) = {(t.device, t.threads) for t in resolve(made)}
    assert trial == (device, threads if device == "cpu" else None)
