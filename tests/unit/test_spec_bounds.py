"""Numbers, names, tags and paths of a sweep file that can't work: refused by `validate` with the line and the range."""

import json
import time

import jsonschema
import pytest
import yaml

from raybench.cli.main import main
from raybench.errors import SpecError
from raybench.sweep.bounds import AUGMENTATIONS, Augmentation
from raybench.sweep.mistakes import Mistakes
from raybench.sweep.reader import load_sweep
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.resolve import resolve
from raybench.sweep.schema import json_schema
from raybench.sweep.size import cells_of
from raybench.sweep.sweep import Sweep
from tests.unit.sweeps import AXES, GRID, sweep, written

STAGE = [  # a field of a recipe's stage, what it can't be, the message
    ("momentum", "-3", "found -3, expected a number of at least 0 and below 1"),
    ("momentum", "1", "found 1, expected a number of at least 0 and below 1"),
    ("momentum", "true", "found true, expected a number"),
    ("lr", ".inf", "found inf, expected a number above 0 and at most 1000"),
    ("lr", "-0.1", "found -0.1, expected a number above 0 and at most 1000"),
    ("lr", "1e300", "found 1e+300, expected a number above 0 and at most 1000"),
    ("lr", "'0.1'", "found '0.1', expected a number"),
    ("gamma", ".nan", "found nan, expected a number above 0 and at most 1000"),
    ("gamma", "0", "found 0, expected a number above 0 and at most 1000"),
    ("weight_decay", "-1e-4", "found -0.0001, expected a number of at least 0 and at most 100"),
    ("min_lr", "-1", "found -1, expected a number of at least 0 and at most 1000"),
    ("label_smoothing", "5", "found 5, expected a number of at least 0 and below 1"),
    ("mixup", "-1", "found -1, expected a number of at least 0 and at most 100"),
    ("cutmix", "-1", "found -1, expected a number of at least 0"),
    ("ema", "2", "found 2, expected a number of at least 0 and below 1"),
    ("distill", "1.5", "found 1.5, expected a number of at least 0 and at most 1"),
    ("random_erasing", "-0.5", "found -0.5, expected a number of at least 0 and at most 1"),
    ("randaugment", "11", "found 11, expected a number of at least 0 and at most 10"),
    ("step_size", "0", "found 0, expected a number of at least 1 and at most 100000"),
    ("clip_grad", "-1", "found -1, expected a number of at least 0"),
    ("clip_grad", ".inf", "found inf, expected a finite number of at least 0"),
    ("epochs", "-1", "found -1, expected a number of at least 0 and at most 100000"),
    ("epochs", "1.5", "found 1.5, expected a whole number"),
    ("epochs", "10000000", "found 10000000, expected a number of at least 0 and at most 100000"),
    ("batch_size", "0", "found 0, expected a number of at least 1 and at most 1048576"),
    ("milestones", "[-1]", "found -1, expected a number of at least 0"),
    ("warmup_epochs", "-1", "found -1, expected a number of at least 0 and at most 100000"),
    ("warmup_epochs", "2", "found 2, expected at most the 1 epoch of this stage"),
    ("augment", "[flop]", "found 'flop', expected 'shift', 'flip', 'crop'"),
]
TOP = [  # lines of the sweep, the key that the message names, the message
    ("speedups: [1e300]", "speedups[0]", "found 1e+300, expected a number above 1 and at most 10000"),
    ("speedups: .nan", "speedups", "found nan, expected a"),
    ("seeds: [9223372036854775808]", "seeds[0]", "found 9223372036854775808, expected a number of at least 0 and at"),
    ("name: " + "x" * 300, "name", "expected text of at most 200 characters"),
    ("round_to: 1000000", "round_to", "found 1000000, expected a number of at least 1 and at most 65536"),
    ("threads: 0", "threads", "found 0, expected a number of at least 1 and at most 65536"),
    ("threads: 10000000", "threads", "found 10000000, expected a number of at least 1"),
    ("resources: {cpus: 1e9}", "resources.cpus", "expected a number above 0 and at most 100000"),
    ("resources: {memory: 99999999999999999999}", "resources.memory", "expected a number above 0 and at most"),
    ("seeds: [!env SEED]", "seeds[0]", "found the tag !env, expected a value without one"),
    ("seeds: !!python/object/apply:os.system [x]", "seeds", "found the tag !!python/object/apply:os.system"),
    ("seeds: !!set {1: }", "seeds", "found the tag !!set"),
    ("ratio: 0.99999", "ratio", "found 0.99999, expected a number above 0 and at most 0.999"),
]


def refused(path):
    with pytest.raises(Mistakes) as caught:
        load_sweep(path)
    return str(caught.value)


@pytest.mark.parametrize(("field", "value", "expected"), STAGE)
def test_a_setting_of_a_stage_that_cannot_work_names_line_found_and_range(field, value, expected, tmp_path):
    other = {"epochs": "1", "lr": "0.1"} | {field: value}
    text = GRID + "recipe:\n  extends: small\n  finetune:\n" + "".join(f"    {k}: {v}\n" for k, v in other.items())
    line = text.splitlines().index(f"    {field}: {value}") + 1
    assert f"s.yaml:{line}: recipe.finetune.{field}" in (message := refused(written(tmp_path, text)))
    assert expected in message


@pytest.mark.parametrize(("lines", "key", "expected"), TOP)
def test_a_setting_of_the_sweep_that_cannot_work_names_line_found_and_range(lines, key, expected, tmp_path):
    kept = [line for line in GRID.splitlines() if not line.startswith(lines.partition(":")[0] + ":")]
    if lines.startswith("ratio"):
        kept = [line for line in kept if not line.startswith("speedups")]
    text = "\n".join([*kept, "recipe: small", lines, ""])
    assert f"s.yaml:{len(kept) + 2}: {key}: " in (message := refused(written(tmp_path, text)))
    assert expected in message


def test_every_number_of_a_recipe_has_bounds():
    """A new field without bounds would be the next momentum of -3."""
    for name, field in json_schema()["$defs"]["TrainRecipe"]["properties"].items():
        text = json.dumps(field)
        if '"number"' in text or '"integer"' in text:
            assert "inimum" in text, name


@pytest.mark.parametrize(("field", "value", "message"), [one for one in STAGE if one[1] not in ("2", "1.5", "true")])
def test_the_json_schema_carries_the_bounds(field, value, message):
    validator = jsonschema.Draft202012Validator(json_schema())
    stage = {"epochs": 1, "lr": 0.1, field: yaml.safe_load(value)}
    if value in (".inf", ".nan", "1e300") and field != "lr":
        return  # JSON has no such numbers
    found = list(validator.iter_errors(AXES | {"recipe": {"extends": "quick", "finetune": stage}}))
    assert bool(found) is (value != ".nan")


def test_what_contradicts_itself_is_refused_where_it_stands(tmp_path):
    text = GRID + "recipe:\n  extends: small\n  base:\n    momentum: 0\n    nesterov: true\n"
    assert "s.yaml:10: recipe.base.nesterov: found true with momentum 0" in refused(written(tmp_path, text))
    entry = GRID.replace("test-vit", "{name: test-vit, recipe: {extends: small, base: {warmup_epochs: 9}}}")
    assert "s.yaml:3: models.recipe.base.warmup_epochs: found 9, expected at most the 2 epochs" in refused(
        written(tmp_path, entry + "recipe: small\n")
    )


def test_a_stage_of_no_epochs_may_have_a_warm_up(tmp_path):
    load_sweep(written(tmp_path, GRID + "recipe: {extends: quick, finetune: {epochs: 0}}\n"))


def test_the_largest_seed_is_a_seed():
    assert {trial.seed for trial in resolve(sweep(seeds=[2**63 - 1]))} == {2**63 - 1}


def test_a_product_beyond_a_million_is_refused_within_a_second_with_the_count(tmp_path, capsys):
    axes = AXES | {"speedups": [1 + i / 100 for i in range(1, 601)], "seeds": list(range(600))}
    (tmp_path / "s.yaml").write_text(json.dumps(axes))
    start = time.perf_counter()
    assert main(["validate", str(tmp_path / "s.yaml")]) == 2
    assert time.perf_counter() - start < 3  # most of it is reading the file, on a busy machine
    assert "found axes whose product is 2,160,000 cells, expected at most 1,000,000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"models": ["test-convnet", {"name": "test-vit", "speedups": 3, "seeds": [7, 8, 9]}]},
        {"methods": [{"name": "taylor", "seeds": [9]}, "random"], "models": {"name": "test-vit", "seeds": [1, 2, 3]}},
        {"include": {"models": "cifar-resnet20", "methods": "bn-scale", "seeds": 5}},
    ],
)
def test_cells_are_counted_as_they_are_listed(changes):
    assert cells_of(sweep(**changes)) == len(resolve(sweep(**changes)))


def test_ten_thousand_values_are_checked_for_doubles_at_once():
    start = time.perf_counter()
    Sweep.model_validate(AXES | {"seeds": list(range(20_000))})
    assert time.perf_counter() - start < 3  # 20 s when every value was compared with every other


def test_augmentations_of_another_task_are_refused_before_a_run(tmp_path):
    recipe = GRID + "recipe: {extends: small, finetune: {augment: [mosaic]}}\n"
    with pytest.raises(SpecError, match=r"finetune\.augment: found 'mosaic'; classification has shift, flip, crop"):
        resolve(load_sweep(written(tmp_path, recipe)))


def test_the_tasks_have_the_augmentations_that_a_recipe_may_name():
    from raybench.tasks.detection_training import AUGMENT

    assert set(AUGMENT) == set(AUGMENTATIONS["detection"])
    assert {name for names in AUGMENTATIONS.values() for name in names} == set(Augmentation.__args__)
    assert TrainRecipe(epochs=1, lr=0.1, augment=("mosaic", "crop")).augment == ("mosaic", "crop")


def with_paths(folder, **paths):
    text = GRID.replace("test-vit", f"{{name: test-vit, weights: {paths.get('weights', 'trained')}}}")
    text += f"recipe: {paths.get('recipe', 'small')}\n"
    text += "".join(f"{key}: {paths[key]}\n" for key in ("storage", "data_roots", "extends") if key in paths)
    return written(folder, text)


def test_variables_and_the_home_folder_are_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BUCKET", "mine")
    (tmp_path / "w.pth").touch()
    (tmp_path / "base.yaml").write_text("seeds: [3]\n")
    (tmp_path / "other.yaml").write_text("extends: small\n")
    for home in ("$HERE", "${HERE}", "~"):
        path = with_paths(
            tmp_path, weights=f'"{home}/w.pth"', storage=f'"{home}/out"', data_roots=f'{{digits: "{home}/d"}}',
            extends=f'"{home}/base.yaml"', recipe=f'"{home}/other.yaml"',
        )  # fmt: skip
        one = load_sweep(path)
        assert one.models[0].weights == str(tmp_path / "w.pth")
        assert one.storage == str(tmp_path / "out")
        assert one.data_roots == {"digits": str(tmp_path / "d")}
        assert one.seeds == (3,)
        assert one.recipe.name.startswith("other~")
    assert load_sweep(with_paths(tmp_path, storage="s3://$BUCKET/results")).storage == "s3://mine/results"


@pytest.mark.parametrize("key", ["storage", "weights", "recipe", "extends"])
def test_a_variable_that_is_not_set_is_told(key, tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", "x")
    expected = refused(with_paths(tmp_path, **{key: "$SCRATHC/x.yaml"}))
    assert "found $SCRATHC in '$SCRATHC/x.yaml', which isn't set. Did you mean 'SCRATCH'?" in expected
    assert "s.yaml:" in expected


def test_a_dollar_in_a_name_that_exists_is_that_name(tmp_path):
    (tmp_path / "a$b.pth").touch()
    one = load_sweep(with_paths(tmp_path, weights="a$b.pth"))
    assert one.models[0].weights == str(tmp_path / "a$b.pth")
