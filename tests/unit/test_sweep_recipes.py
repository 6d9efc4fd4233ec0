"""Recipes of a sweep file: their names, settings that contradict each other, and mistakes with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.sweep import reader
from raybench.sweep.mistakes import Mistakes

BASE = "datasets: digits\nmodels: test-vit\nmethods: random\nspeedups: 2\n"
SMALL = "base: {epochs: 2, lr: 0.1}\nfinetune: {epochs: 1, lr: 0.1}\n"


def recipes(folder: Path, text: str, **files: str):
    (folder / "recipes").mkdir(exist_ok=True)
    for name, content in ({"small": SMALL} | files).items():
        (folder / f"recipes/{name}.yaml").write_text(content)
    (folder / "s.yaml").write_text(f"name: s\n{BASE}{text}")
    return reader.load_sweep(folder / "s.yaml")


def test_a_recipe_is_named_after_its_file_and_what_changes_it(tmp_path) -> None:
    def name(recipe: str) -> str:
        return recipes(
            tmp_path, f"recipe: {recipe}\n", nice="name: good\n" + SMALL, longer="extends: small\n"
        ).recipe.name

    assert name("small") == "small"
    assert name("nice") == "nice"
    assert name("{extends: small, finetune: {epochs: 3}}") == reader._marked("small", {"finetune": {"epochs": 3}})
    assert name("{extends: small, finetune: {epochs: 3}, name: own}") == "own"
    assert name("{extends: small}") == "small"
    assert name("longer") == "longer"
    whole = {"base": {"epochs": 2, "lr": 0.1}, "finetune": {"epochs": 1, "lr": 0.1}}
    assert name("{base: {epochs: 2, lr: 0.1}, finetune: {epochs: 1, lr: 0.1}}") == reader._marked("custom", whole)
    assert name("{name: n, base: {epochs: 2, lr: 0.1}, finetune: {epochs: 1, lr: 0.1}}") == "n"
    assert reader._marked("small", {"b": 1, "a": 2}) == "small~2150"


WARM = "base: {epochs: 9, lr: 0.1, warmup_epochs: 4}\nfinetune: {epochs: 5, lr: 0.1}\n"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("{extends: warm, base: {epochs: 3}}",
         "s.yaml:6: recipe.base.epochs: found 3, but recipes/warm.yaml:1: recipe.base.warmup_epochs: found 4, "
         "expected at most the 3 epochs of this stage"),
        ("short",
         "recipes/warm.yaml:1: recipe.base.warmup_epochs: found 4, expected at most the 3 epochs of this stage "
         "(epochs: recipes/short.yaml:2)"),
        ("{extends: warm, base: {warmup_epochs: 20}}",
         "s.yaml:6: recipe.base.warmup_epochs: found 20, expected at most the 9 epochs of this stage (epochs: "
         "recipes/warm.yaml:1)"),
        ("{extends: warm, base: {epochs: 3, warmup_epochs: 4}}",
         "s.yaml:6: recipe.base.warmup_epochs: found 4, expected at most the 3 epochs of this stage"),
        ("{extends: warm, early_stop: {grace_period: 5}}",
         "s.yaml:6: recipe.early_stop.grace_period: found 5, expected less than the 5 epochs of finetune: no cell "
         "would be stopped (epochs: recipes/warm.yaml:2)"),
        ("{extends: warm, base: {nesterov: true}, finetune: {momentum: 0}}", None),
        ("{extends: still, base: {nesterov: true}}",
         "s.yaml:6: recipe.base.nesterov: found true with momentum 0, expected a momentum above 0 (momentum: "
         "recipes/still.yaml:1)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", ["", "seeds: -1\n"])
def test_settings_that_contradict_each_other_are_both_named(recipe, message, more, tmp_path) -> None:
    still = "base: {epochs: 2, lr: 0.1, momentum: 0}\nfinetune: {epochs: 1, lr: 0.1}\n"
    files = {"warm": WARM, "short": "extends: warm\nbase: {epochs: 3}\n", "still": still}
    text = f"recipe: {recipe}\n{more}"
    if message is None:
        assert more or recipes(tmp_path, text, **files)
        return
    with pytest.raises(Mistakes) as error:
        recipes(tmp_path, text, **files)
    assert [line for line in str(error.value).replace(f"{tmp_path}/", "").splitlines() if "recipe." in line] == [
        message
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: [small, small]\n", ["s.yaml:6: recipes[1]: found 'small' twice, expected each value once"]),
        ("recipe: 3\n", [
            "s.yaml:6: recipe: found 3, expected the name or file of a recipe, or a mapping that extends one",
        ]),
        ("recipe: {extends: [a, b]}\n", ["s.yaml:6: recipe: found a list of 2, expected the name or file of a recipe"]),
        ("recipe: smal\n", ["s.yaml:6: recipe: unknown recipe 'smal'. Did you mean 'small'? Known: "]),
        ("recipe: [small, smal]\n", ["s.yaml:6: recipe: unknown recipe 'smal'."]),
        ("extends: {a: 1}\nrecipe: small\n", ["s.yaml:6: extends: expected the name of one YAML file"]),
        ("extends: ''\nrecipe: small\n", ["s.yaml:6: extends: expected the name of one YAML file"]),
        ("recipe: small\nextends: nane.yaml\n", ["s.yaml:7: extends: found 'nane.yaml', expected a file; there is no",
                                                  "nane.yaml. Did you mean 'name.yaml'?"]),
        ("recipe: small\nextends: s.yaml\n", ["s.yaml:7: extends: found a cycle: s.yaml -> s.yaml"]),
        ("recipe: small\nseeds: -1\nspeedup: 3\n", [
            "2 mistakes\n", "s.yaml:7: seeds: found -1", "s.yaml:8: speedup: un",
        ]),
        ("recipe: {extends: small, base: {warmup_epochs: 9}}\nseeds: -1\n", [
            "2 mistakes\n", "s.yaml:6: recipe.base.warmup_epochs: found 9, expected at most the 2 epochs of this stage",
        ]),
        ("recipe: small\nprotocol: [raybench, x]\n", ["s.yaml:7: protocols[1]: found 'x', expected 'raybench' or"]),
    ],
)  # fmt: skip
def test_mistakes_of_a_file_name_the_line_and_the_key(text, message, tmp_path) -> None:
    (tmp_path / "name.yaml").touch()
    with pytest.raises(Mistakes) as error:
        recipes(tmp_path, text)
    for words in message:
        assert words in str(error.value).replace(f"{tmp_path}/", "")
    assert all(isinstance(one.line, int) for one in error.value.mistakes)
