"""Recipes and protocols as axes of a sweep, and the precision of `prune`."""

from __future__ import annotations

import argparse
import json
from collections import Counter

import pytest

from raybench.cli.main import main
from raybench.cli.prune_options import add_options, sweep_of
from raybench.errors import UserError
from raybench.execution.submission import _as_yaml
from raybench.plan.plan import plan
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.size import cells_of

START = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: [random, lamp]\nspeedups: 2\n"
LONGER = "{extends: quick, finetune: {epochs: 12}}"


def sweep(tmp_path, text: str):
    file = tmp_path / "s.yaml"
    file.write_text(START + text)
    return load_sweep(file)


@pytest.mark.parametrize("keys", [("recipes", "protocols"), ("recipe", "protocol")])
def test_their_product_is_the_grid_of_the_single_ones(keys, tmp_path) -> None:
    both = sweep(tmp_path, f"{keys[0]}: [quick, {LONGER}]\n{keys[1]}: [raybench, pruningbench]\n")
    trials = [trial.trial_id for trial in resolve(both)]
    alone = [
        trial.trial_id
        for recipe in ("quick", LONGER)
        for protocol in ("raybench", "pruningbench")
        for trial in resolve(sweep(tmp_path, f"recipe: {recipe}\nprotocol: {protocol}\n"))
    ]
    assert trials == alone
    assert len(set(trials)) == cells_of(both) == 8


def test_one_value_is_no_axis_and_a_sweep_that_is_sent_is_the_same(tmp_path) -> None:
    one = sweep(tmp_path, "recipe: quick\n")
    assert (one.recipes, one.protocols, list(one.variants())) == ((), (), [one])
    both = sweep(tmp_path, f"recipes: [quick, {LONGER}]\nprotocols: [raybench, pruningbench]\n")
    sent = tmp_path / "sent.yaml"
    sent.write_text(json.dumps(_as_yaml(both)))
    assert [t.trial_id for t in resolve(load_sweep(sent))] == [t.trial_id for t in resolve(both)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipes: [quick, quik]\n", "s.yaml:6: .*unknown recipe 'quik'. Did you mean 'quick'"),
        ("recipes: [quick, {extends: quick, finetune: {epochs: x}}]\n", r"6: recipes\[1\].finetune.epochs: found 'x'"),
        ("recipes: [quick]\nrecipe: quick\n", "s.yaml:7: recipe: found recipes beside it, expected one of the two"),
        ("recipe: quick\nprotocol: [raybench, pruningbnch]\n", r"7: protocols\[1\]: .* Did you mean 'pruningbench'"),
        ("recipe: [quick, quick]\n", r"6: recipes\[1\]: found 'quick' twice"),
        ("recipe: quick\nschedule: iterative\nprotocol: [raybench, pruningbench]\n", "7: schedule: found 'iterative'"),
    ],
)
def test_mistakes_have_their_line(text, message, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        sweep(tmp_path, text)


def test_the_plan_says_how_many(tmp_path, capsys) -> None:
    sweep(tmp_path, f"recipe: [quick, {LONGER}]\n")
    assert main(["validate", str(tmp_path / "s.yaml")]) == 0
    assert capsys.readouterr().out.endswith("valid, 4 cells\n")


def chosen(*more: str):
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument("--device")
    args = parser.parse_args(
        ["--model", "test-convnet", "--dataset", "digits", "--speedup", "2", "--device", "cpu", *more]
    )
    return resolve(sweep_of(args))[0]


def test_precision_is_part_of_the_trial_and_the_default_changes_no_id() -> None:
    bf16 = chosen("--precision", "bf16")
    assert bf16.speed.precision == "bf16"
    assert bf16.trial_id != chosen().trial_id
    assert chosen("--precision", "fp32").id_fields == chosen().id_fields


def test_a_precision_that_a_cpu_lacks_is_named_by_its_option() -> None:
    with pytest.raises(UserError, match="--precision: found tf32, which only GPUs have"):
        chosen("--precision", "tf32")


def test_learning_rates_of_fine_tuning_are_an_axis_over_one_base_and_one_selection(tmp_path):
    rates = "[quick, {extends: quick, finetune: {lr: 0.01}}, {extends: quick, finetune: {lr: 0.001}}]"
    (tmp_path / "s.yaml").write_text(
        f"name: s\ndatasets: digits\nmodels: test-convnet\nmethods: [lamp, taylor]\nspeedups: 2\nrecipe: {rates}\n"
    )
    planned = plan(load_sweep(tmp_path / "s.yaml"))
    assert Counter(unit.kind for unit in planned.units) == {"base": 1, "select": 2, "cell": 6}
    assert len({(one.recipe.name, one.recipe.finetune.lr) for one in planned.trials}) == 3
