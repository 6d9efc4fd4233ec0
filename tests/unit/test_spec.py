"""From a good sweep file to trials: axes, overrides, include, exclude, extends, recipes, ratios."""

import json
import warnings

import pytest

from raybench import registry
from raybench.errors import SpecError
from raybench.reports.reproduce import sweep_of
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.sweep import Sweep
from tests.unit.sweeps import GRID, RECIPE, sweep, written


def cells(one: Sweep) -> set[tuple]:
    return {(t.dataset, t.model, t.method, t.strategy, t.speedup, t.seed) for t in resolve(one)}


def test_the_grid_is_the_product_of_the_axes():
    assert len(resolve(sweep())) == len(cells(sweep())) == 2 * 3 * 2 * 2


def test_a_scalar_stands_for_a_list_of_one():
    assert cells(sweep(models="test-vit", speedups=2, seeds=1, methods="taylor")) == {
        ("digits", "test-vit", "taylor", "protected-global", 2.0, 1)
    }


def test_an_entry_overrides_what_the_rest_uses():
    one = sweep(models=["test-convnet", {"name": "test-vit", "speedups": 3, "seeds": [7], "prune": ["mlp"]}])
    vit = [t for t in resolve(one) if t.model == "test-vit"]
    assert {(t.speedup, t.seed, t.prune) for t in vit} == {(3.0, 7, ("mlp",))}
    assert {t.speedup for t in resolve(one) if t.model == "test-convnet"} == {2.0, 4.0}


def test_the_methods_word_goes_before_the_models():
    one = sweep(models={"name": "test-vit", "seeds": [7]}, methods=[{"name": "taylor", "seeds": [9]}, "random"])
    assert {(t.method, t.seed) for t in resolve(one)} == {("taylor", 9), ("random", 7)}


def test_include_adds_cells_and_takes_the_other_axes_from_the_sweep():
    one = sweep(include={"models": "test-convnet", "methods": "bn-scale", "seeds": 0})
    assert cells(one) - cells(sweep()) == {
        ("digits", "test-convnet", "bn-scale", "protected-global", speedup, 0) for speedup in (2.0, 4.0)
    }


def test_include_by_name_means_the_sweeps_own_entry():
    one = sweep(
        models={"name": "test-convnet", "params": {"width": 16}}, include={"models": "test-convnet", "seeds": 5}
    )
    assert {t.model_params["width"] for t in resolve(one)} == {16}


def test_include_of_cells_that_are_there_adds_nothing():
    assert cells(sweep(include={"models": "test-vit"})) == cells(sweep())
    assert len(resolve(sweep(include={"models": "test-vit"}))) == len(resolve(sweep()))


def test_exclude_takes_out_what_matches_every_axis_it_names():
    one = sweep(exclude=[{"models": "test-vit", "methods": ["taylor", "magnitude-l1"]}, {"speedups": 4, "seeds": 1}])
    gone = {
        c for c in cells(sweep()) if (c[1] == "test-vit" and c[2] in ("taylor", "magnitude-l1")) or c[4:] == (4.0, 1)
    }
    assert cells(one) == cells(sweep()) - gone


def test_exclude_goes_before_include():
    one = sweep(include={"models": "test-convnet", "methods": "bn-scale"}, exclude={"methods": "bn-scale", "seeds": 1})
    assert {c[5] for c in cells(one) if c[2] == "bn-scale"} == {0}


def test_an_empty_grid_is_an_error():
    with pytest.raises(SpecError, match="has no cells"):
        resolve(sweep(exclude={"datasets": "digits"}))


def test_schedule_auto_follows_what_the_criterion_needs():
    chosen = {t.method: t.schedule for t in resolve(sweep())}
    assert chosen == {"magnitude-l1": "progressive", "magnitude-l2+group-norm": "progressive", "taylor": "iterative"}
    assert {t.schedule for t in resolve(sweep(schedule="one-shot"))} == {"one-shot"}
    assert {t.schedule for t in resolve(sweep(protocol="pruningbench"))} == {"progressive"}


def test_prune_is_for_attention_models_only():
    assert {(t.model, t.prune) for t in resolve(sweep())} == {
        ("test-convnet", ()),
        ("test-vit", ("embed", "head-dim", "mlp")),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, []),
        ({"prune": ["heads"]}, []),  # test-vit has some
        (
            {"prune": ["heads", "mlp"], "models": "test-convnet"},
            ["prune: heads, mlp: changes nothing for test"],
        ),
        (
            {"models": ["test-vit", {"name": "test-convnet", "prune": "mlp"}]},
            ["prune: mlp: changes nothing for test"],
        ),
        ({"prune": ["heads"], "models": "test-convnet", "include": {"models": "test-vit"}}, []),
    ],
)
def test_parts_asked_of_models_without_attention_are_told(changes, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resolve(sweep(**changes))
    said = [str(one.message) for one in caught]
    assert len(said) == len(message)
    assert all(one.startswith(start) for one, start in zip(said, message, strict=True))


def test_a_criterion_that_needs_more_images_than_the_recipe_has(tmp_path):
    file = tmp_path / "hungry.py"
    file.write_text('@importance("hungry", min_images=64)\nclass Hungry: ...\n')
    registry.add_plugin(file)
    resolve(sweep(methods="hungry"))
    with pytest.raises(SpecError, match="'hungry' needs at least 64 calibration images; recipe 'r' has 63"):
        resolve(sweep(methods="hungry", recipe=RECIPE | {"calibration_images": 63}))


def test_sizes_of_memory():
    sizes = ["1024", "1KiB", "2 GiB", "1.5GB", 77]
    assert [sweep(resources={"memory": m}).resources.memory for m in sizes] == [1024, 1024, 2**31, 15 * 10**8, 77]


def test_extends_replaces_keys_and_merges_maps(tmp_path):
    written(
        tmp_path, "name: grand\nresources: {cpus: 2, memory: 1GiB}\nrecipe: small\nseeds: [0, 1, 2]\n", "grand.yaml"
    )
    written(tmp_path, "extends: grand.yaml\nname: parent\nresources: {cpus: 4}\ndatasets: digits\n", "parent.yaml")
    child = "extends: parent.yaml\nname: child\nmodels: test-vit\nmethods: random\nspeedups: 2\nseeds: [5]\n"
    one = load_sweep(written(tmp_path, child))
    assert (one.name, one.seeds, one.resources.cpus, one.resources.memory) == ("child", (5,), 4, 2**30)


def test_paths_in_a_file_are_relative_to_that_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/w.safetensors").write_bytes(b"w")
    text = "storage: out\ndata_roots: {digits: d}\nmodels: {name: test-vit, weights: w.safetensors}\n"
    parent = tmp_path / "sub/parent.yaml"
    parent.write_text(text)
    one = load_sweep(
        written(
            tmp_path,
            "extends: sub/parent.yaml\nname: s\ndatasets: digits\nmethods: random\nspeedups: 2\nrecipe: small\n",
        )
    )
    assert one.storage == str(tmp_path / "sub/out")
    assert one.data_roots == {"digits": str(tmp_path / "sub/d")}
    assert one.models[0].weights == str(tmp_path / "sub/w.safetensors")


def test_a_recipe_by_name(tmp_path):
    recipe = load_sweep(written(tmp_path, GRID + "recipe: small\n")).recipe
    assert (recipe.name, recipe.base.epochs) == ("small", 2)


def test_a_changed_recipe_has_a_name_of_its_own(tmp_path):
    first = load_sweep(written(tmp_path, GRID + "recipe: {extends: small, finetune: {epochs: 3}}\n")).recipe
    second = load_sweep(written(tmp_path, GRID + "recipe: {extends: small, finetune: {epochs: 4}}\n")).recipe
    named = load_sweep(written(tmp_path, GRID + "recipe: {extends: small, name: mine}\n")).recipe
    assert (first.finetune.epochs, first.finetune.lr, first.base.epochs) == (3, 0.1, 2)
    assert first.name.startswith("small~")
    assert len({first.name, second.name, "small"}) == 3
    assert named.name == "mine"


def test_a_recipe_may_extend_its_neighbour(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/longer.yaml").write_text("extends: small\nfinetune: {epochs: 7}\n")
    one = load_sweep(written(tmp_path, GRID + "recipe: longer\n")).recipe
    assert (one.name, one.finetune.epochs, one.base.epochs) == ("longer", 7, 2)


def test_a_recipe_by_its_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: small\nfinetune: {epochs: 7}\n")
    one = load_sweep(written(tmp_path, GRID + "recipe: mine.yaml\n")).recipe
    assert (one.finetune.epochs, one.base.epochs) == (7, 2)
    (tmp_path / "mine.yaml").write_text("extends: small\nfinetune: {epochs: 8}\n")
    other = load_sweep(
        written(tmp_path, GRID + f"recipe: {{extends: {tmp_path / 'mine.yaml'}, base: {{epochs: 1}}}}\n")
    ).recipe
    assert (other.finetune.epochs, other.base.epochs) == (8, 1)
    assert one.name.startswith("mine~")
    assert other.name.startswith("mine~")
    assert one.name != other.name


def test_a_recipe_of_one_model(tmp_path):
    text = GRID.replace("test-vit", "[test-convnet, {name: test-vit, recipe: {extends: small, base: {epochs: 9}}}]")
    epochs = {t.model: t.recipe.base.epochs for t in resolve(load_sweep(written(tmp_path, text + "recipe: small\n")))}
    assert epochs == {"test-convnet": 2, "test-vit": 9}


def test_numbers_and_words_are_read_as_people_mean_them(tmp_path):
    text = GRID.replace("name: s", "name: no") + "recipe: {extends: small, base: {lr: 1e-3, amp: true}}\n"
    one = load_sweep(written(tmp_path, text))
    assert (one.name, one.recipe.base.lr, one.recipe.base.amp) == ("no", 0.001, True)


def test_a_ratio_stands_in_place_of_speedups_and_shows_again_as_one(tmp_path):
    fields = {"name": "r", "datasets": "digits", "models": "cifar-resnet20", "methods": "random", "recipe": "quick"}
    (tmp_path / "r.yaml").write_text(json.dumps(fields | {"ratio": 0.3}))
    (trial,) = resolve(load_sweep(tmp_path / "r.yaml"))
    assert (trial.ratio, trial.speedup) == (0.3, pytest.approx(1 / 0.7))
    (tmp_path / "again.yaml").write_text(sweep_of(trial.model_dump_json()))
    assert resolve(load_sweep(tmp_path / "again.yaml"))[0].trial_id == trial.trial_id
    (tmp_path / "r.yaml").write_text(json.dumps(fields | {"ratio": 0.3, "speedups": 2}))
    with pytest.raises(SpecError, match="ratio: found speedups beside it"):
        load_sweep(tmp_path / "r.yaml")
    entry = {"name": "random", "speedups": [2]}
    (tmp_path / "r.yaml").write_text(json.dumps(fields | {"ratio": 0.3, "methods": [entry]}))
    with pytest.raises(SpecError, match=r"methods\[0\]\.speedups: found speedups, expected none"):
        load_sweep(tmp_path / "r.yaml")
    walks = {"name": "random", "schedule": "progressive"}
    for walk in (
        {"protocol": "pruningbench"},
        {"schedule": "iterative"},
        {"methods": [walks]},
        {"include": [{"methods": [walks]}]},
    ):
        (tmp_path / "r.yaml").write_text(json.dumps(fields | {"ratio": 0.3} | walk))
        with pytest.raises(SpecError, match=r"protocol pruningbench prunes to a speed-up|a ratio is one step"):
            load_sweep(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text(json.dumps(fields))
    with pytest.raises(SpecError, match="speedups: the key is missing"):
        load_sweep(tmp_path / "r.yaml")
