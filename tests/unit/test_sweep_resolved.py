"""A sweep's cells and their trials, worked by hand: what is filled in from where, and what only the grid shows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from raybench import registry
from raybench.errors import SpecError, UserError
from raybench.sweep import grid
from raybench.sweep import resolve as module
from raybench.sweep.axes import DatasetAxis, MethodAxis, ModelAxis, resolved
from raybench.sweep.inclusion import Exclude
from raybench.sweep.recipe import Recipe
from raybench.sweep.resolve import resolve
from raybench.sweep.size import cells_of
from raybench.sweep.sweep import Sweep
from raybench.sweep.target import Amount
from raybench.sweep.trial import Weights
from tests.unit.sweeps import RECIPE, sweep


def test_variants_and_values_of_a_sweep() -> None:
    one = sweep()
    assert list(one.variants()) == [one]
    assert next(iter(one.variants())) is one
    recipes = [RECIPE | {"name": name, "calibration_images": count} for name, count in (("p", 10), ("q", 20))]
    several = sweep(recipes=recipes, protocols=["raybench", "pruningbench"])
    found = list(several.variants())
    assert [(v.recipe.name, v.protocol) for v in found] == list(itertools.product("pq", ("raybench", "pruningbench")))
    assert all((v.recipes, v.protocols, v.seeds, v.models) == ((), (), one.seeds, one.models) for v in found)
    assert [v.protocol for v in sweep(protocols=["pruningbench"]).variants()] == ["pruningbench"]
    rich = sweep(
        models=["test-vit", {"name": "test-convnet", "seeds": [7], "strategies": "local"}],
        include=[{"models": "cifar-resnet20", "seeds": [8, 0]}, {"methods": "cp", "datasets": "digits", "speedups": 9}],
    )
    assert {axis: rich.values(axis) for axis in Exclude.model_fields} == {
        "models": ["test-vit", "test-convnet", "cifar-resnet20"], "datasets": ["digits"],
        "methods": ["magnitude-l1", "taylor", "magnitude-l2+group-norm", "cp"],
        "strategies": ["protected-global", "local"], "speedups": [2.0, 4.0, 9.0], "seeds": [0, 1, 8, 7],
        "targets": [], "recipes": ["r"], "protocols": ["raybench"], "transfer": ["none"], "depths": [1.0],
        "image_sizes": [],
    }  # fmt: skip
    assert cells_of(rich) == len(list(cells(rich)))
    assert cells_of(several) == 4 * cells_of(one) == 4 * 24


def cells(one: Sweep):
    yield from grid.cells(one, None)
    for extra in one.include:
        yield from grid.cells(one, extra)


def named(found) -> list[tuple]:
    return [(d.name, m.name, x.name, strategy, speedup, seed) for d, m, x, strategy, speedup, seed in found]


def test_cells_are_the_product_in_the_order_of_the_axes() -> None:
    one = sweep(
        datasets=[{"name": "digits", "seeds": 5, "speedups": 3, "strategies": "local"}, "cifar10"],
        models=["test-vit", {"name": "test-convnet", "seeds": [6], "strategies": ["global", "local"]}],
        methods=["lamp", {"name": "cp", "seeds": [7, 8]}],
        seeds=[0], speedups=[2], include={"models": ["test-vit", "cifar-resnet20"], "seeds": 9, "methods": "lamp"},
    )  # fmt: skip
    of = {
        ("digits", "test-vit", "lamp"): ((("local",), (Amount(3.0),), (5,))),
        ("digits", "test-vit", "cp"): ((("local",), (Amount(3.0),), (7, 8))),
        ("digits", "test-convnet", "lamp"): ((("global", "local"), (Amount(3.0),), (6,))),
        ("digits", "test-convnet", "cp"): ((("global", "local"), (Amount(3.0),), (7, 8))),
        ("cifar10", "test-vit", "lamp"): ((("protected-global",), (Amount(2.0),), (0,))),
        ("cifar10", "test-vit", "cp"): ((("protected-global",), (Amount(2.0),), (7, 8))),
        ("cifar10", "test-convnet", "lamp"): ((("global", "local"), (Amount(2.0),), (6,))),
        ("cifar10", "test-convnet", "cp"): ((("global", "local"), (Amount(2.0),), (7, 8))),
    }
    assert named(grid.cells(one, None)) == [
        (*entries, *chosen) for entries, axes in of.items() for chosen in itertools.product(*axes)
    ]
    assert named(grid.cells(one, one.include[0])) == [
        ("digits", "test-vit", "lamp", "local", Amount(3.0), 9),
        ("digits", "cifar-resnet20", "lamp", "local", Amount(3.0), 9),
        ("cifar10", "test-vit", "lamp", "protected-global", Amount(2.0), 9),
        ("cifar10", "cifar-resnet20", "lamp", "protected-global", Amount(2.0), 9),
    ]  # fmt: skip


def test_entries_that_are_included_by_name_are_the_sweeps_own() -> None:
    own = (ModelAxis(name="test-vit", seeds=3), ModelAxis(name="test-vit", seeds=4), ModelAxis(name="test-convnet"))
    asked = (ModelAxis(name="test-vit"), ModelAxis(name="test-convnet", seeds=1), ModelAxis(name="a:b"))
    assert grid._entries(own, None) == list(own)
    assert grid._entries(own, asked) == [own[0], own[1], asked[1], asked[2]]
    assert grid._entries(own, ()) == []


@pytest.mark.parametrize(
    ("exclude", "matches"),
    [
        ({"datasets": "digits"}, True), ({"datasets": "cifar10"}, False), ({"models": ["a", "test-vit"]}, True),
        ({"methods": "lamp", "seeds": 3}, True), ({"methods": "lamp", "seeds": 4}, False),
        ({"strategies": "local"}, True), ({"strategies": "global"}, False), ({"speedups": 2}, True),
        ({"speedups": 3, "methods": "lamp"}, False), ({"models": None, "seeds": 3}, True),
        ({"targets": {"params": 2}}, False), ({"speedups": 2, "targets": {"params": 2}}, True),
        ({"recipes": "r"}, True), ({"recipes": "quick"}, False), ({"protocols": "raybench"}, True),
        ({"protocols": "pruningbench"}, False), ({"transfer": "none"}, True), ({"depths": 1}, True),
        ({"depths": [0.5, 0.25]}, False), ({"image_sizes": 8}, False),
    ],
)  # fmt: skip
def test_cells_that_are_taken_out(exclude, matches) -> None:
    cell = (DatasetAxis(name="digits"), ModelAxis(name="test-vit"), MethodAxis(name="lamp"), "local", Amount(2.0), 3)
    one = sweep().model_copy(update={"exclude": (Exclude.model_validate(exclude),)})
    assert (cell in grid.Excluded(one, lambda *_: one.recipe)) is matches


def test_the_first_holder_that_says_something_is_heard() -> None:
    first, second, third = DatasetAxis(name="digits"), DatasetAxis(name="digits", seeds=0, keep=()), sweep()
    assert grid.overriding("seeds", first, second, third) == (0,)
    assert grid.overriding("keep", first, second, third) == ()
    assert grid.overriding("prune", first, second, third) is None


def test_trials_are_filled_in_from_the_entries_before_the_sweep(monkeypatch) -> None:
    monkeypatch.setattr(module, "number_variables", lambda device: {})
    stage = {"epochs": 4, "lr": 0.5}
    own = {"round_to": 4, "keep": ["z", "a", "z"], "only": "b", "prune": ["mlp", "heads"], "schedule": "one-shot"}
    of_method = RECIPE | {"name": "m", "finetune": stage, "speed": {"precision": "fp32", "graphs": "off"}}
    made = sweep(
        models=[{"name": "test-vit", **own}, {"name": "test-convnet", "params": {"width": 16}, "recipe": RECIPE}],
        methods=[{"name": "cp+group-norm", "params": {"points": 5}, "regularizer_params": {"strength": 1},
                  "recipe": of_method}],
        seeds=3, speedups=2, base_seeds="per-seed", keep="c", round_to=2,
    )  # fmt: skip
    vit, net = resolve(made)
    assert (vit.keep, vit.only, vit.prune, vit.round_to, vit.schedule) == (
        ("a", "z"), ("b",), ("heads", "mlp"), 4, "one-shot",
    )  # fmt: skip
    assert (net.keep, net.only, net.prune, net.round_to, net.schedule) == (("c",), (), (), 2, "iterative")
    assert (net.model_params, net.model_version, net.model_source) == ({"width": 16}, 1, None)
    for one in (vit, net):
        assert one.recipe == Recipe.model_validate(of_method | {"speed": {}})
        assert (one.seed, one.base_seed, one.threads, one.device, one.ratio) == (3, 3, 1, "cpu", None)
        assert (one.importance.name, one.importance.version, one.importance.seeded) == ("cp", 3, True)
        assert one.importance.params == {"points": 5, "reconstruct": True}
        assert (one.regularizer.name, one.regularizer.params["strength"]) == ("group-norm", 1.0)
        assert type(one.regularizer.params["strength"]) is float
        assert (one.dataset, one.task, one.dataset_fingerprint, one.weights) == (
            "digits",
            "classification",
            None,
            Weights(),
        )
        assert (one.environment, one.protocol, one.strategy) == ({}, "raybench", "protected-global")
        assert one.dataset_params == resolved(registry.dataset.entry("digits"), {})


def test_weights_by_what_identifies_them(tmp_path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"w")
    sha = "50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326"
    cases = {
        ("test-vit", "trained", False): Weights(),
        ("test-vit", str(file), False): Weights(kind="file", identity=sha, path=str(file)),
        ("test-vit", str(file), True): Weights(kind="file", identity=sha, path=str(file), new_head=True),
        ("timm:resnet10t", "pretrained", True): Weights(kind="hub", identity="timm:resnet10t", new_head=True),
        ("resnet18", "pretrained", False): Weights(
            kind="hub", identity=registry.model.entry("resnet18").facts["pretrained"]
        ),
    }
    for (name, weights, new_head), expected in cases.items():
        entry = {"name": name, "weights": weights, "new_head": new_head}
        found = resolve(sweep(models=entry, methods="lamp", seeds=0, speedups=2))[0].weights
        assert (found, found.path) == (expected, expected.path)
    file.chmod(0)
    with pytest.raises(UserError, match=r"model 'test-vit': its weights .* can't be read: Is a directory"):
        module._sha256(tmp_path, "test-vit")


def schedules(**changes) -> dict[str, str]:
    return {
        t.method: t.schedule for t in resolve(sweep(methods=["lamp", "taylor", "cp", "random"], seeds=0, **changes))
    }


def test_schedules_follow_needs_protocol_and_ratio() -> None:
    own = {"lamp": "progressive", "taylor": "iterative", "cp": "iterative", "random": "progressive"}
    assert schedules(speedups=2) == own
    assert schedules(speedups=2, protocol="pruningbench") == dict.fromkeys(own, "progressive")
    assert schedules(ratio=0.5, speedups=[2.0]) == dict.fromkeys(own, "one-shot")
    assert schedules(speedups=2, schedule="iterative") == dict.fromkeys(own, "iterative")


def refused(**changes) -> str:
    with pytest.raises(SpecError) as error:
        resolve(sweep(**changes))
    return str(error.value)


def test_what_only_the_grid_shows(monkeypatch) -> None:
    importance = registry.importance.entries()
    hungry = replace(importance["lamp"], facts=importance["lamp"].facts | {"min_images": 64})
    monkeypatch.setattr(registry.importance, "_entries", {**importance, "lamp": hungry})
    few = RECIPE | {"calibration_images": 63}
    need = "method 'lamp' needs at least 64 calibration images; recipe 'r' has 63: raise its calibration_images"
    assert refused(methods="lamp", recipe=few) == need
    assert resolve(sweep(methods="lamp", recipe=RECIPE | {"calibration_images": 64}))
    bare = {key: value for key, value in RECIPE.items() if key != "sparsify"}
    missing = "recipe 'r': sparsify: the key is missing; method '{}' has a regularizer, which trains in that stage"
    assert refused(methods="cp+group-norm", recipe=bare) == missing.format("cp+group-norm")
    both = refused(methods=["lamp", "cp+group-norm"], recipe=bare | {"calibration_images": 63})
    assert both == f"2 mistakes\n{need}\n{missing.format('cp+group-norm')}"
    assert refused(methods="cp", exclude={"methods": "cp"}) == "sweep 's' has no cells: `exclude` takes all of them out"
    fast = RECIPE | {"speed": {"compile": "auto"}}
    found = refused(datasets="digits-detection", models="yolov8n", methods="cp", recipe=fast)
    assert found == ("recipe 'r': speed: compile: found 'auto', expected none: detection trains without these options")
    boxes = {"datasets": "digits-detection", "models": "yolov8n", "methods": "cp"}
    small = RECIPE | {"finetune": RECIPE["finetune"] | {"start_scale": 0.7}}
    said = "recipe 'r': finetune.start_scale: found 0.7; not supported for detection, expected 1"
    assert refused(**boxes, recipe=small) == said


@pytest.mark.parametrize(
    ("stage", "methods", "epochs", "refused_"),
    [
        ("base", "cp", 1, True), ("sparsify", "cp", 1, False), ("sparsify", "cp+group-norm", 1, True),
        ("finetune", "cp", 1, True), ("finetune", "cp", 0, False),
    ],
)  # fmt: skip
def test_augmentations_of_stages_that_run(stage, methods, epochs, refused_) -> None:
    recipe = RECIPE | {stage: {"epochs": epochs, "lr": 0.1, "augment": ["flip", "mosaic", "hsv"]}}
    if not refused_:
        assert resolve(sweep(methods=methods, recipe=recipe))
        return
    assert refused(methods=methods, recipe=recipe) == (
        f"recipe 'r': {stage}.augment: found 'mosaic'; classification has shift, flip, crop, resized-crop"
    )


def test_given_weights_train_no_base(tmp_path) -> None:
    (tmp_path / "w").write_bytes(b"w")
    recipe = RECIPE | {"base": {"epochs": 1, "lr": 0.1, "augment": ["mosaic"]}}
    weights = {"name": "test-vit", "weights": str(tmp_path / "w")}
    assert resolve(sweep(models=weights, methods="cp", recipe=recipe))
    assert "base.augment" in refused(models=weights | {"new_head": True}, methods="cp", recipe=recipe)


def test_idle_parts_are_told_once_for_each_model(recwarn) -> None:
    resolve(sweep(models=["test-convnet", "cifar-resnet20"], prune="mlp", methods="cp"))
    resolve(sweep(models=["test-vit", "test-convnet"], prune="mlp", methods="cp"))
    own = {"name": "test-convnet", "prune": "heads"}
    resolve(sweep(models=[own, "cifar-resnet20"], prune=["mlp", "embed"], methods="cp"))
    resolve(sweep(models="test-vit", include={"models": own | {"prune": "embed"}}, methods="cp"))
    said = "prune: {}: changes nothing for {}, which has no attention"
    assert [str(one.message) for one in recwarn] == [
        said.format("mlp", "test-convnet"), said.format("mlp", "cifar-resnet20"),
        said.format("heads", "test-convnet"), said.format("mlp, embed", "cifar-resnet20"),
        said.format("embed", "test-convnet"),
    ]  # fmt: skip
    assert (module._attention("test-vit"), module._attention("test-convnet"), module._attention("a:b")) == (
        True,
        False,
        None,
    )
