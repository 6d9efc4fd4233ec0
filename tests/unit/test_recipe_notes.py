"""Several recipes of one name in a store: what they differ in is said, and their figures are not mixed."""

from __future__ import annotations

import re

import pytest

from raybench.reports.leaderboard import COLUMNS, Leaderboard, trials_of
from raybench.reports.pages.board_pages import board_pages
from raybench.reports.pages.content import read_content
from raybench.reports.pages.method_pages import method_pages
from raybench.reports.pages.overview import best_rows
from raybench.reports.pages.site import write_report
from raybench.reports.recipe_notes import MOST, recipe_notes
from raybench.sweep.speed import Speed
from tests.unit.report_stores import store
from tests.unit.result_rows import RECIPE, STAGE, failure, row, trial

FAST = RECIPE.model_copy(update={"name": "quick~aaaa", "speed": Speed(precision="bf16")})
LONG = RECIPE.model_copy(update={"name": "quick~bbbb", "finetune": STAGE.model_copy(update={"epochs": 9})})
OTHER = FAST.model_copy(update={"name": "photos"})


def notes(written) -> dict[str, str]:
    return recipe_notes(written.table(COLUMNS), trials_of(written))


def rows(*recipes, method="magnitude-l2", final=97.0, **fields):
    return [row(trial(method, recipe=one, **fields), metric_final=final) for one in recipes]


def test_what_recipes_of_one_name_differ_in_is_said(tmp_path) -> None:
    written = store(tmp_path, rows(RECIPE, FAST, LONG, OTHER))
    assert notes(written) == {
        "quick": "", "quick~aaaa": "speed.precision=bf16", "quick~bbbb": "finetune.epochs=9",
    }  # fmt: skip
    said = "recipes differ: quick: no setting of its own; quick~aaaa: speed.precision=bf16; quick~bbbb: "
    (line,) = [one for one in Leaderboard.read(written).conditions if one.startswith("recipes")]
    assert line == f"{said}finetune.epochs=9"


def test_of_two_recipes_both_values_are_said_and_of_one_none(tmp_path) -> None:
    assert notes(store(tmp_path / "two", rows(RECIPE, LONG))) == {
        "quick": "finetune.epochs=2", "quick~bbbb": "finetune.epochs=9",
    }  # fmt: skip
    one = store(tmp_path / "one", rows(FAST, OTHER), [failure(trial("random", recipe=LONG))])
    assert notes(one) == {}
    assert not [line for line in Leaderboard.read(one).conditions if "recipes" in line]


def test_a_long_list_ends_with_how_many_more(tmp_path) -> None:
    changes = {"epochs": 7, "lr": 0.5, "momentum": 0.1, "nesterov": True, "gamma": 0.3, "ema": 0.9, "mixup": 0.2,
               "augment": ("crop", "flip")}  # fmt: skip
    many = RECIPE.model_copy(update={"name": "quick~cccc", "base": STAGE.model_copy(update=changes)})
    text = notes(store(tmp_path, rows(RECIPE, FAST, many)))["quick~cccc"]
    assert text == (
        "base.augment=[crop, flip], base.ema=0.9, base.epochs=7, base.gamma=0.3, base.lr=0.5, base.mixup=0.2 and 2 more"
    )
    assert text.count("=") == MOST


@pytest.fixture
def content(tmp_path):
    """Two methods under `quick`, one of them alone, and better, under `quick~aaaa`."""
    both = [*rows(RECIPE, final=97.0), *rows(RECIPE, method="lamp", final=96.0)]
    return store(tmp_path / "st", [*both, *rows(FAST, method="lamp", final=98.0, speedup=4.0)])


def test_the_overview_has_a_line_for_each_recipe(content) -> None:
    amounts, best = best_rows(board_pages(read_content(content)))
    found = [(one.rules, [cell and (cell.method, cell.final) for cell in one.cells]) for one in best]
    assert amounts == ["2x", "4x"]
    assert found == [
        ("raybench, quick", [("magnitude-l2", "97.00"), None]), ("raybench, quick~aaaa", [None, ("lamp", "98.00")]),
    ]  # fmt: skip


def test_a_method_alone_on_a_board_has_won_nothing(content) -> None:
    read = read_content(content)
    pages = {one.method: one for one in method_pages(read, board_pages(read))}
    assert {name: (one.count("best"), len(one.ranked)) for name, one in pages.items()} == {
        "magnitude-l2": (1, 1), "lamp": (0, 1),
    }  # fmt: skip
    assert pages["lamp"].mean_share == 1.0
    assert (pages["lamp"].several, pages["magnitude-l2"].several) == (True, False)


def test_pages_name_the_recipes(content, tmp_path) -> None:
    write_report(content, tmp_path / "pages")
    board = (tmp_path / "pages/board-digits-cifar-resnet20-protected-global.html").read_text()
    assert re.findall(r"<h2>(Protocol .*?)</h2>", board) == [
        "Protocol raybench, recipe quick", "Protocol raybench, recipe quick~aaaa",
    ]  # fmt: skip
    assert "speed.precision=bf16; base 98.00 %" in board
    lamp = (tmp_path / "pages/method-lamp.html").read_text()
    assert 'class="l soft">alone' in lamp
    assert "raybench, quick~aaaa" in lamp
    assert "protocol, recipe" not in (tmp_path / "pages/method-magnitude-l2.html").read_text()
