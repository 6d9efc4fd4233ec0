"""Every axis of a sweep in `include` and `exclude`: cells that are added and taken out, and values that no cell has."""

from __future__ import annotations

import itertools

import pytest

from raybench.sweep.inclusion import AXES as OF_A_VARIANT
from raybench.sweep.inclusion import VARYING, Exclude, Include
from raybench.sweep.mistakes import Mistakes
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.size import cells_of
from raybench.sweep.sweep import Sweep
from raybench.sweep.target import Amount
from tests.unit.sweeps import AXES, RECIPE, problems_of, written

ONE = AXES | {"models": "test-convnet", "methods": "magnitude-l1", "speedups": 2, "seeds": 0}
SLOW = RECIPE | {"name": "slow", "finetune": {"epochs": 3, "lr": 0.1}}
RICH = ONE | {"targets": {"params": [2, 3]}, "recipes": [RECIPE, SLOW], "depths": [1, 0.5], "image_sizes": [8, 6]}


def grid(**changes) -> set[tuple]:
    return {of(one) for one in resolve(Sweep.model_validate(changes))}


def of(one) -> tuple:
    asked = str(Amount(one.speedup, one.target))
    return one.recipe.name, one.protocol, one.depth, one.image_size, asked, one.strategy, one.seed


def test_every_axis_of_a_sweep_can_be_named_in_both() -> None:
    settings = {"recipe", "protocol", "ratio", "base", "base_seeds", "resources", "device", "threads", "schedule",
                "prune", "keep", "only", "round_to", "storage", "data_roots", "name", "include", "exclude"}  # fmt: skip
    axes = Sweep.model_fields.keys() - settings
    assert axes == Include.model_fields.keys() == Exclude.model_fields.keys() == {*OF_A_VARIANT, *VARYING}


WHOLE = set(
    itertools.product(("r", "slow"), ("raybench",), (1.0, 0.5), (None, 6), ("2x", "2x params", "3x params"))
)  # an image of digits has 8 pixels: its own size


@pytest.mark.parametrize(
    ("exclude", "gone"),
    [
        ({"depths": 0.5}, lambda recipe, protocol, depth, size, asked: depth == 0.5),
        ({"image_sizes": 6, "depths": [0.5]}, lambda r, p, depth, size, asked: size == 6 and depth == 0.5),
        ({"image_sizes": 8}, lambda r, p, depth, size, asked: size is None),
        ({"recipes": "slow"}, lambda recipe, p, depth, size, asked: recipe == "slow"),
        ({"targets": {"params": 3}}, lambda r, p, depth, size, asked: asked == "3x params"),
        ({"targets": {"params": 2}, "speedups": 2, "depths": 1},
         lambda r, p, depth, size, asked: asked.startswith("2x") and depth == 1),
    ],
)  # fmt: skip
def test_cells_are_taken_out_by_any_axis(exclude, gone) -> None:
    found = {one[:5] for one in grid(**RICH, exclude=exclude)}
    assert found == {one for one in WHOLE if not gone(*one)}
    assert found < WHOLE


def test_protocols_and_transfers_are_taken_out() -> None:
    both = ONE | {"protocols": ["raybench", "pruningbench"]}
    assert {one[1] for one in grid(**both, exclude={"protocols": "raybench"})} == {"pruningbench"}
    moved = ONE | {"datasets": "cifar10", "base": {"from": "digits"}, "transfer": ["none", "transfer-then-prune"]}
    found = resolve(Sweep.model_validate(moved | {"exclude": {"transfer": "none"}}))
    assert [one.transfer for one in found] == ["transfer-then-prune"]


def test_cells_are_added_on_any_axis_and_the_others_are_the_sweeps_own() -> None:
    added = {"depths": [0.5, 0.25], "recipes": [SLOW], "targets": {"params": 4}}
    one = ONE | {"include": [{"seeds": 1}, added]}
    small = {("r", "raybench", 1.0, None, "2x", "protected-global", seed) for seed in (0, 1)}
    more = {("slow", "raybench", depth, None, "4x params", "protected-global", 0) for depth in (0.5, 0.25)}
    assert grid(**one) == small | more
    assert cells_of(Sweep.model_validate(one)) == 4
    assert grid(**one, exclude={"depths": 0.25, "recipes": "slow"}) == {
        cell for cell in small | more if cell[2] != 0.25
    }
    sized = grid(**ONE, include=[{"image_sizes": [6, 8]}])
    assert sized == {("r", "raybench", 1.0, size, "2x", "protected-global", 0) for size in (None, 6)}
    protocols = grid(**ONE, include={"protocols": "pruningbench"})
    assert {one[1] for one in protocols} == {"raybench", "pruningbench"}


def test_an_included_recipe_counts_before_that_of_an_entry() -> None:
    entry = ONE | {"methods": {"name": "magnitude-l1", "recipe": SLOW}}
    assert {one[0] for one in grid(**entry)} == {"slow"}
    other = RECIPE | {"name": "other", "calibration_images": 9}
    assert {one[0] for one in grid(**entry, include={"recipes": [other]})} == {"slow", "other"}
    assert {one[0] for one in grid(**entry, include={"recipes": [other]}, exclude={"recipes": "slow"})} == {"other"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exclude": {"depths": 0.5}}, ("found 0.5, expected one of this sweep's depths: 1.0", "depths")),
        ({"exclude": {"image_sizes": 6}}, ("found 6, expected none: the sweep has no image_sizes", "image_sizes")),
        ({"exclude": {"targets": {"params": 2}}},
         ("found 2x params, expected none: the sweep has no targets", "targets")),
        ({"exclude": {"targets": {"latency_ms": 2}}, "targets": {"params": 3}},
         ("found 2 ms, expected one of this sweep's targets: 3x params", "targets")),
        ({"exclude": {"recipes": "rr"}},
         ("found 'rr', expected one of this sweep's recipes: r. Did you mean 'r'?", "recipes")),
        ({"exclude": {"protocols": "pruningbench"}},
         ("found 'pruningbench', expected one of this sweep's protocols: raybench. Did you mean 'raybench'?",
          "protocols")),
        ({"exclude": {"transfer": "transfer-then-prune"}},
         ("found 'transfer-then-prune', expected one of this sweep's transfer: none", "transfer")),
    ],
)  # fmt: skip
def test_values_that_no_cell_has_are_mistakes(changes, expected) -> None:
    ((message, path),) = problems_of(Sweep, ONE | changes)
    assert (message, path) == (expected[0], ("exclude", 0, expected[1]))


def test_inclusions_are_checked_as_the_sweep_is() -> None:
    hurried = SLOW | {"early_stop": {"grace_period": 7}}
    for include, path in (
        ({"depths": [0.5, 0.5]}, ("include", 0, "depths", 1)),
        ({"transfer": "prune-then-transfer"}, ("include", 0, "transfer")),
        ({"recipes": [hurried]}, ("include", 0, "recipes", 0, "early_stop", "grace_period")),
    ):
        assert [place for _, place in problems_of(Sweep, ONE | {"include": include})] == [path]
    found = problems_of(Sweep, ONE | {"include": {"protocols": "pruningbench"}, "schedule": "iterative"})
    assert found[0][1] == ("schedule",)


def test_a_file_names_recipes_and_protocols_in_the_singular_too(tmp_path) -> None:
    text = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: lamp\nspeedups: 2\nrecipe: small\n"
    more = "include: [{recipe: [{extends: small, name: other}], protocol: pruningbench}]\nexclude: {recipe: small}\n"
    one = load_sweep(written(tmp_path, text + more))
    assert [(trial.recipe.name, trial.protocol) for trial in resolve(one)] == [("other", "pruningbench")]
    with pytest.raises(Mistakes, match=r"include\[0\].recipe"):
        load_sweep(written(tmp_path, text + "include: [{recipe: small, recipes: [small]}]\n"))
