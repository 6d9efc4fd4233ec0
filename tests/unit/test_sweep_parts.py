"""The parts of sweeps by hand: fingerprints' counts and caches, sources of plug-ins, messages, lists, the schema."""

import hashlib
import json
import os
from pathlib import Path

import pytest

import raybench
from raybench import registry
from raybench.sweep import fingerprint as module
from raybench.sweep.axes import ModelAxis
from raybench.sweep.fingerprint import fingerprint
from raybench.sweep.mistakes import show
from raybench.sweep.modules import module_source, plugin_source
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.resolve import resolve
from raybench.sweep.schema import json_schema
from tests.unit.sweeps import RECIPE, sweep, written

PLUGIN = """
from raybench.methods.protocols import ElementwiseImportance
from raybench.registry import importance
{imports}

@importance("{name}"{facts})
class Mine(ElementwiseImportance):
    def saliency(self, layer):
        return layer.weight.abs()
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function that registers a plug-in of this folder and returns its entry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry.importance, "_entries", None)

    def add(name: str, imports: str = "", facts: str = ""):
        file = tmp_path / f"{name}.py"
        file.write_text(PLUGIN.format(name=name, imports=imports, facts=facts))
        monkeypatch.setattr(registry.importance, "_entries", None)
        registry.add_plugin(file)
        return registry.importance.entry(name)

    return add


def test_a_fingerprint_counts_every_oddity_and_goes_on_behind_it(tmp_path, monkeypatch):
    root = tmp_path / "root"
    for folder in ("a", "b", "c", "d"):
        (root / folder).mkdir(parents=True)
    for name in ("b/back", "c/back"):
        (root / name).symlink_to(root)
    for name in ("b/one", "b/two"):
        os.mkfifo(root / name)
    for name in ("b/gone", "c/gone", "c/lost"):
        (root / name).symlink_to(tmp_path / "nowhere")
    real = os.scandir

    def refusing(path):
        if str(path).endswith(("/a", "/d")):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(module.os, "scandir", refusing)
    (root / "c/labels.txt").write_text("0")
    found = fingerprint(root, cache=tmp_path / "cache")
    assert found.left_out == {
        "dead links": 3,
        "links that lead back to a folder above": 2,
        "pipes, sockets and devices": 2,
        "unreadable entries": 2,
    }
    (root / "c/labels.txt").write_text("1")
    assert fingerprint(root, cache=tmp_path / "cache").digest != found.digest, "what lies behind is looked at"


def test_each_folder_of_data_has_a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_S", -1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fingerprint(tmp_path / name, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2


def test_a_plug_ins_source_is_its_file_and_those_that_it_imports(plugin, tmp_path):
    alone = plugin("alone")
    assert plugin_source(alone) == alone.source == hashlib.sha256(alone.file.read_bytes()).hexdigest()
    assert plugin_source(registry.importance.entry("lamp")) is None
    (tmp_path / "its_helper.py").write_text("A = 1\n")
    first = plugin_source(plugin("helped", "import its_helper"))
    (tmp_path / "its_helper.py").write_text("A = 2\n")
    second = plugin_source(registry.importance.entry("helped"))
    assert len({first, second, registry.importance.entry("helped").source}) == 3


@pytest.mark.parametrize("changed", ["deep/inner/__init__.py", "deep/inner/side.py", "deep/__init__.py"])
def test_relative_imports_of_packages_in_packages_are_followed(changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "deep/inner"
    inner.mkdir(parents=True)
    (tmp_path / "deep/__init__.py").write_text("A = 1\n")
    (inner / "__init__.py").write_text("B = 1\n")
    (inner / "side.py").write_text("C = 1\n")
    (inner / "net.py").write_text("from .side import C\ndef net(): pass\n")
    before = module_source("deep.inner.net:net")
    (tmp_path / changed).write_text("D = 2\n")
    assert module_source("deep.inner.net:net") != before


def test_a_criterion_that_says_nothing_of_its_needs_looks_at_weights(plugin):
    plugin("silent")
    plugin("looking", facts=', needs="gradients"')
    trials = {t.importance.name: t for t in resolve(sweep(methods=["silent", "looking"], seeds=0, speedups=2))}
    assert [(trials[name].importance.seeded, trials[name].schedule) for name in ("silent", "looking")] == [
        (False, "progressive"),
        (True, "iterative"),
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 58, repr("x" * 58)),
        ("x" * 59, "'" + "x" * 56 + "..."),
        (None, "nothing"),
        (True, "true"),
        ([], "an empty list"),
    ],
)
def test_values_in_messages_have_at_most_sixty_characters(value, shown):
    assert show(value) == shown
    assert len(shown) <= 60


def test_parameters_of_models_that_nobody_registered_are_left_as_they_are():
    axis = ModelAxis.model_validate({"name": "my_module:net", "params": {"width": 3, "anything": "goes"}})
    assert axis.params == {"width": 3, "anything": "goes"}


def test_a_list_of_includes_spreads_the_parameters_of_each(tmp_path):
    text = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: lamp\nspeedups: 2\nrecipe: small\ninclude:\n"
    method = "{{name: magnitude-l2+group-norm, regularizer_params: {{strength: [{}]}}}}"
    text += f"- {{methods: {method.format('0.1, 0.2')}}}\n- {{methods: {method.format('0.3, 0.4')}}}\n"
    trials = resolve(raybench.load_sweep(written(tmp_path, text)))
    found = sorted(t.regularizer.params["strength"] for t in trials if t.regularizer)
    assert found == [0.1, 0.2, 0.3, 0.4]


def test_what_the_schema_adds_to_the_model_has_a_type_and_a_meaning():
    schema = json_schema()
    for added in (schema["properties"]["extends"], schema["$defs"]["Recipe"]["properties"]["extends"]):
        assert added["type"] == "string"
        assert added["description"]
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["title"] == "raybench sweep"
    memory = schema["$defs"]["Resources"]["properties"]["memory"]["anyOf"]
    assert [one["type"] for one in memory] == ["integer", "string"]


def test_the_schema_of_a_sweep_is_json(tmp_path: Path):
    assert json.loads(json.dumps(json_schema())) == json_schema()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("warmup_epochs", 0), ("min_lr", 0.0), ("label_smoothing", 0.0), ("mixup", 0.0), ("cutmix", 0.0),
        ("randaugment", 0), ("random_erasing", 0.0), ("clip_grad", None), ("ema", None), ("distill", 0.0),
        ("amp", False), ("momentum", 0.9), ("weight_decay", 5e-4), ("step_size", 30), ("gamma", 0.1),
        ("batch_size", 128), ("milestones", ()), ("augment", ()), ("schedule", "cosine"), ("optimizer", "sgd"),
    ],
)  # fmt: skip
def test_what_a_recipe_leaves_out_is_as_documented(field, value):
    assert getattr(TrainRecipe(epochs=1, lr=0.1), field) == value


def test_layers_that_are_kept_are_in_the_keys_and_nothing_is_where_none_are(tmp_path):
    plain, kept, only = (resolve(sweep(seeds=0, speedups=2, **more))[0] for more in ({}, {"keep": "a"}, {"only": "b"}))
    assert not {"keep", "only"} & plain.id_fields.keys()
    assert (kept.id_fields["keep"], only.id_fields["only"]) == ('["a"]', '["b"]')
    assert "only" not in kept.id_fields
    assert len({t.trial_id for t in (plain, kept, only)}) == len({t.pass_key for t in (plain, kept, only)}) == 3
    assert len({t.base_key for t in (plain, kept, only)}) == 1


def test_a_changed_recipe_has_one_name_whatever_the_order_of_its_keys(tmp_path):
    names = []
    for change in ("{epochs: 3, lr: 0.2}", "{lr: 0.2, epochs: 3}", "{epochs: 4, lr: 0.2}"):
        text = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: lamp\nspeedups: 2\n"
        text += f"recipe: {{extends: small, finetune: {change}}}\n"
        names.append(raybench.load_sweep(written(tmp_path, text)).recipe.name)
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("small~")


def test_one_calibration_image_is_enough_for_a_criterion_that_does_not_say_otherwise(plugin):
    plugin("modest", facts=', needs="gradients"')
    recipe = RECIPE | {"calibration_images": 1}
    assert resolve(sweep(methods="modest", recipe=recipe))[0].recipe.calibration_images == 1


def test_a_long_tag_is_cut_in_the_message(tmp_path):
    text = f"name: s\ndatasets: !{'x' * 80} digits\n"
    with pytest.raises(raybench.UserError) as error:
        raybench.load_sweep(written(tmp_path, text))
    assert f"!{'x' * 59}," in str(error.value)


def test_a_dataset_of_a_plug_in_is_known_by_its_code_and_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.dataset, "_entries", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("1")
    code = "from raybench.registry import dataset\n\n\n@dataset('its-data', task='classification', classes=10, "
    code += "in_channels=3, image_size=16, mean=(0.5,), std=(0.5,), licence='', user_data=True)\ndef its(root): pass\n"
    found = []
    for text in (code, code + "# edited\n"):
        (tmp_path / "its_data.py").write_text(text)
        monkeypatch.setattr(registry.dataset, "_entries", None)
        registry.add_plugin(tmp_path / "its_data.py")
        roots = {"its-data": str(tmp_path / "data")}
        found.append(resolve(sweep(datasets="its-data", models="cifar-resnet20", data_roots=roots))[0])
    digest = fingerprint(tmp_path / "data").digest
    sources = [hashlib.sha256(text.encode()).hexdigest() for text in (code, code + "# edited\n")]
    assert [trial.dataset_fingerprint for trial in found] == [f"{source}:{digest}" for source in sources]
