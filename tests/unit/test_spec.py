"""From a good sweep file to trials: axes, overrides, include, exclude, extends, recipes, and what an id depends on."""

import hashlib
import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench import registry
from raybench.datasets.roots import fingerprint
from raybench.errors import SpecError
from raybench.results.reproduce import sweep_of
from raybench.spec import trial
from raybench.spec.reader import load_sweep
from raybench.spec.resolve import resolve
from raybench.spec.sweep import Sweep

GOLDEN = Path(__file__).parent.parent / "golden/selections.json"
GOLDEN_OF = {1: "f545ee3c92cef374"}  # SELECTION -> the golden selections that it stands for

STAGE = {"epochs": 1, "lr": 0.1}
RECIPE = {"name": "r", "base": {"epochs": 2, "lr": 0.1}, "sparsify": STAGE, "finetune": STAGE}
AXES = {
    "name": "s",
    "datasets": "digits",
    "models": ["test-convnet", "test-vit"],
    "methods": ["magnitude-l1", "taylor", "magnitude-l2+group-norm"],
    "speedups": [2, 4],
    "seeds": [0, 1],
    "recipe": RECIPE,
}


def sweep(**changes) -> Sweep:
    return Sweep.model_validate(AXES | changes)


def cells(one: Sweep) -> set[tuple]:
    return {(t.dataset, t.model, t.method, t.strategy, t.speedup, t.seed) for t in resolve(one)}


def written(folder: Path, text: str, name: str = "s.yaml") -> Path:
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes/small.yaml").write_text(json.dumps({k: v for k, v in RECIPE.items() if k != "name"}))
    (folder / name).write_text(text)
    return folder / name


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


def test_defaults_are_resolved_so_that_saying_them_changes_nothing():
    said = {"name": "magnitude-l2+group-norm", "regularizer_params": {"strength": 5e-4, "alpha": 4}}
    ids = {t.trial_id for t in resolve(sweep(methods=said))}
    assert ids == {t.trial_id for t in resolve(sweep(methods="magnitude-l2+group-norm"))}
    other = said | {"regularizer_params": {"strength": 1e-4}}
    assert not ids & {t.trial_id for t in resolve(sweep(methods=other))}


def test_bases_are_shared_by_seeds_unless_asked_otherwise():
    assert len({t.base_key for t in resolve(sweep(models="test-vit"))}) == 1
    assert len({t.base_key for t in resolve(sweep(models="test-vit", base_seeds="per-seed"))}) == 2


def test_what_is_this_machines_business_is_not_in_the_id():
    plain = {t.trial_id for t in resolve(sweep())}
    moved = sweep(storage="elsewhere", resources={"cpus": 2, "gpus": 0.5}, data_roots={"digits": "x"}, name="t")
    assert {t.trial_id for t in resolve(moved)} == plain


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "pruningbench"},
        {"round_to": 8},
        {"schedule": "one-shot"},
        {"recipe": RECIPE | {"finetune": {"epochs": 2, "lr": 0.1}}},
        {"recipe": RECIPE | {"base": {"epochs": 3, "lr": 0.1}}},
        {"recipe": RECIPE | {"calibration_images": 8}},
        {"strategies": "local"},
    ],
)
def test_what_the_numbers_depend_on_is_in_the_id(change):
    assert not {t.trial_id for t in resolve(sweep(**change))} & {t.trial_id for t in resolve(sweep())}


def test_the_recipes_name_is_not_in_the_id():
    assert {t.trial_id for t in resolve(sweep(recipe=RECIPE | {"name": "z"}))} == {t.trial_id for t in resolve(sweep())}


def test_a_criterion_that_needs_more_images_than_the_recipe_has(tmp_path):
    file = tmp_path / "hungry.py"
    file.write_text('@importance("hungry", min_images=64)\nclass Hungry: ...\n')
    registry.add_plugin(file)
    try:
        resolve(sweep(methods="hungry"))
        with pytest.raises(SpecError, match="'hungry' needs at least 64 calibration images; recipe 'r' has 63"):
            resolve(sweep(methods="hungry", recipe=RECIPE | {"calibration_images": 63}))
    finally:
        for one in registry.KINDS:
            one.remove_file(file)


def test_given_weights_are_known_by_their_content(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"one")
    first, second = (
        sweep(models={"name": "test-vit", "weights": str(tmp_path / name)})
        for name in ("a.safetensors", "b.safetensors")
    )
    assert [t.trial_id for t in resolve(first)] == [t.trial_id for t in resolve(second)]
    before = [t.trial_id for t in resolve(first)]
    (tmp_path / "a.safetensors").write_bytes(b"two")
    assert not set(before) & {t.trial_id for t in resolve(first)}


def test_a_users_module_is_known_by_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text("raise SystemExit('imported')\n")
    before = resolve(sweep(models="my_net:build"))
    (tmp_path / "my_net.py").write_text("raise SystemExit('imported, too')\n")
    assert not {t.trial_id for t in before} & {t.trial_id for t in resolve(sweep(models="my_net:build"))}
    with pytest.raises(SpecError, match="found no module 'not_there'"):
        resolve(sweep(models="not_there:build"))


def test_a_fingerprint_tells_two_states_of_data_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"12")
    before = fingerprint(tmp_path)
    (tmp_path / "a/1.jpg").write_bytes(b"21")
    assert fingerprint(tmp_path) == before  # same path and size
    (tmp_path / "a/2.jpg").write_bytes(b"")
    assert fingerprint(tmp_path) != before


def test_sizes_of_memory():
    told = ["1024", "1KiB", "2 GiB", "1.5GB", 77]
    assert [sweep(resources={"memory": m}).resources.memory for m in told] == [1024, 1024, 2**31, 15 * 10**8, 77]


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


GRID = "name: s\ndatasets: digits\nmodels: test-vit\nmethods: random\nspeedups: 2\n"


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


def test_other_selections_need_another_version():
    """Changing the golden selections without raising SELECTION would let old stores hand out old cuts."""
    assert hashlib.sha256(GOLDEN.read_bytes()).hexdigest()[:16] == GOLDEN_OF[trial.SELECTION]


@pytest.mark.parametrize(
    ("version", "keys"),
    [("SELECTION", {"pass_key", "select_key", "trial_id"}),
     ("TRAINING", {"base_key", "sparsify_key", "pass_key", "select_key", "trial_id"})],
)  # fmt: skip
def test_a_raised_version_makes_new_keys(monkeypatch, version, keys):
    names = ("base_key", "sparsify_key", "pass_key", "select_key", "trial_id")
    whole = sweep(methods="magnitude-l2+group-norm")
    before = {name: getattr(resolve(whole)[0], name) for name in names}
    monkeypatch.setattr(trial, version, 1000)
    after = {name: getattr(resolve(whole)[0], name) for name in names}
    assert {name for name in names if before[name] != after[name]} == keys


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


def test_a_changed_trial_has_other_keys():
    first = resolve(sweep())[0]
    dumped = first.model_dump(exclude={"dataset_fingerprint"})  # before any key is asked for
    ids = first.trial_id, first.select_key, first.pass_key, first.base_key
    assert first.model_dump(exclude={"dataset_fingerprint"}) == dumped
    assert first.model_copy() == first == pickle.loads(pickle.dumps(first))
    other = first.model_copy(update={"speedup": 3.0})
    assert (other.trial_id != ids[0], other.select_key != ids[1], other.pass_key, other.base_key) == (
        True,
        True,
        *ids[2:],
    )


@pytest.mark.parametrize(("kind", "name"), [("model", "test-vit"), ("dataset", "digits")])
def test_a_raised_version_of_a_model_or_dataset_makes_its_bases_anew(tmp_path, monkeypatch, kind, name):
    whole = load_sweep(written(tmp_path, GRID.replace("test-vit", "[test-vit, test-convnet]") + "recipe: small\n"))
    before = resolve(whole)
    names = getattr(registry, kind)
    entry = names.entry(name)
    raised = replace(entry, facts={**entry.facts, "version": 2})
    monkeypatch.setattr(names, "_entries", {**names.entries(), name: raised})
    for old, new in zip(before, resolve(whole), strict=True):
        touched = getattr(old, kind) == name
        assert (old.trial_id != new.trial_id) == (old.base_key != new.base_key) == touched


def test_a_recipe_of_one_model(tmp_path):
    text = GRID.replace("test-vit", "[test-convnet, {name: test-vit, recipe: {extends: small, base: {epochs: 9}}}]")
    epochs = {t.model: t.recipe.base.epochs for t in resolve(load_sweep(written(tmp_path, text + "recipe: small\n")))}
    assert epochs == {"test-convnet": 2, "test-vit": 9}


def test_numbers_and_words_are_read_as_people_mean_them(tmp_path):
    text = GRID.replace("name: s", "name: no") + "recipe: {extends: small, base: {lr: 1e-3, amp: true}}\n"
    one = load_sweep(written(tmp_path, text))
    assert (one.name, one.recipe.base.lr, one.recipe.base.amp) == ("no", 0.001, True)


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(AXES["models"]),
    st.permutations(AXES["methods"]),
    st.permutations([2, 4]),
    st.permutations([0, 1]),
)
def test_the_order_of_the_axes_changes_no_id(models, methods, speedups, seeds):
    shuffled = resolve(sweep(models=models, methods=methods, speedups=speedups, seeds=seeds))
    ids = Counter(t.trial_id for t in shuffled)
    assert ids == Counter(t.trial_id for t in resolve(sweep()))
    assert max(ids.values()) == 1


def test_a_ratio_stands_in_place_of_speedups_and_shows_again_as_one(tmp_path):
    told = {"name": "r", "datasets": "digits", "models": "cifar-resnet20", "methods": "random", "recipe": "quick"}
    (tmp_path / "r.yaml").write_text(json.dumps(told | {"ratio": 0.3}))
    (trial,) = resolve(load_sweep(tmp_path / "r.yaml"))
    assert (trial.ratio, trial.speedup) == (0.3, pytest.approx(1 / 0.7))
    (tmp_path / "again.yaml").write_text(sweep_of(trial.model_dump_json()))
    assert resolve(load_sweep(tmp_path / "again.yaml"))[0].trial_id == trial.trial_id
    (tmp_path / "r.yaml").write_text(json.dumps(told | {"ratio": 0.3, "speedups": 2}))
    with pytest.raises(SpecError, match="ratio: found speedups beside it"):
        load_sweep(tmp_path / "r.yaml")
    entry = {"name": "random", "speedups": [2]}
    (tmp_path / "r.yaml").write_text(json.dumps(told | {"ratio": 0.3, "methods": [entry]}))
    with pytest.raises(SpecError, match=r"methods\[0\]\.speedups: found speedups, expected none"):
        load_sweep(tmp_path / "r.yaml")
    walks = {"name": "random", "schedule": "progressive"}
    for walk in (
        {"protocol": "pruningbench"},
        {"schedule": "iterative"},
        {"methods": [walks]},
        {"include": [{"methods": [walks]}]},
    ):
        (tmp_path / "r.yaml").write_text(json.dumps(told | {"ratio": 0.3} | walk))
        with pytest.raises(SpecError, match=r"protocol pruningbench walks to a speed-up|a ratio is one step"):
            load_sweep(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text(json.dumps(told))
    with pytest.raises(SpecError, match="speedups: the key is missing"):
        load_sweep(tmp_path / "r.yaml")
