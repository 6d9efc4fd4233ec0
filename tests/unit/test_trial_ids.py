"""What a trial's id and the keys of its shared stages depend on, and what they don't."""

import hashlib
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench import registry
from raybench.errors import SpecError
from raybench.sweep import trial
from raybench.sweep.fingerprint import fingerprint
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from tests.unit.sweeps import AXES, GRID, RECIPE, sweep, written

GOLDEN = Path(__file__).parent.parent / "golden/selections.json"
# SELECTION -> the golden selections that it stands for; 2: splits, tied weights, pruningbench without depthwise filters
GOLDEN_OF = {1: "f545ee3c92cef374", 2: "f545ee3c92cef374"}


def test_bases_are_shared_by_seeds_unless_asked_otherwise():
    assert len({t.base_key for t in resolve(sweep(models="test-vit"))}) == 1
    assert len({t.base_key for t in resolve(sweep(models="test-vit", base_seeds="per-seed"))}) == 2


def test_what_is_this_machines_business_is_not_in_the_id():
    computing = {"device": "cpu", "threads": 1}
    plain = {t.trial_id for t in resolve(sweep(**computing))}
    assert {t.trial_id for t in resolve(sweep())} == plain
    moved = sweep(
        storage="elsewhere", resources={"cpus": 2, "gpus": 0.5}, data_roots={"digits": "x"}, name="t", **computing
    )
    assert {t.trial_id for t in resolve(moved)} == plain


@pytest.mark.parametrize("resources", [{"cpus": 2}, {"gpus": 1}, {"cpus": 4, "gpus": 0.5}])
def test_threads_and_device_are_in_the_id_unless_the_sweep_fixes_them(resources):
    """Float sums depend on the kind of device, and on a CPU on the number of threads."""
    plain, other = resolve(sweep()), resolve(sweep(resources=resources))
    assert not {t.trial_id for t in plain} & {t.trial_id for t in other}
    assert not {t.base_key for t in plain} & {t.base_key for t in other}
    same = resolve(sweep(resources=resources | {"cpus": 8})) if "gpus" in resources else plain
    assert ({t.trial_id for t in same} == {t.trial_id for t in other}) == ("gpus" in resources)


def test_all_seeds_share_a_selection_that_looks_at_weights_alone():
    first, second = (
        {t.method: t for t in resolve(sweep(seeds=[seed], methods=["magnitude-l1", "taylor", "random", "cp"]))}
        for seed in (0, 1)
    )
    shared = {method for method in first if first[method].select_key == second[method].select_key}
    assert shared == {"magnitude-l1"}
    assert first["magnitude-l1"].trial_id != second["magnitude-l1"].trial_id
    pair = [resolve(sweep(seeds=[seed], methods="magnitude-l1+group-norm"))[0].select_key for seed in (0, 1)]
    assert pair[0] != pair[1]  # the sparsified network has a seed


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
    swapped = fingerprint(tmp_path)
    assert swapped != before  # same path and size, other content
    (tmp_path / "a/2.jpg").write_bytes(b"")
    assert fingerprint(tmp_path) not in (before, swapped)


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


def test_a_raised_version_of_the_published_rules_changes_their_ids_alone(monkeypatch):
    def keys(protocol: str) -> list[tuple]:
        return [(t.trial_id, t.base_key, t.pass_key) for t in resolve(sweep(protocol=protocol))]

    before = {protocol: keys(protocol) for protocol in ("raybench", "pruningbench")}
    monkeypatch.setattr(trial, "PUBLISHED", trial.PUBLISHED + 1)
    assert keys("raybench") == before["raybench"]
    for old, new in zip(before["pruningbench"], keys("pruningbench"), strict=True):
        assert all(one != other for one, other in zip(old, new, strict=True))


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


def test_defaults_are_resolved_so_that_saying_them_changes_nothing():
    said = {"name": "magnitude-l2+group-norm", "regularizer_params": {"strength": 5e-4, "alpha": 4}}
    ids = {t.trial_id for t in resolve(sweep(methods=said))}
    assert ids == {t.trial_id for t in resolve(sweep(methods="magnitude-l2+group-norm"))}
    other = said | {"regularizer_params": {"strength": 1e-4}}
    assert not ids & {t.trial_id for t in resolve(sweep(methods=other))}
