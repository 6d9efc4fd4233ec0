"""Messages for people: counts in the right number, names of the user's own modules, defaults that are said."""

import bdb
import pdb
import re
import sys
from pathlib import Path

import pytest

import raybench
from raybench.cli.main import main
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError, counted, with_article
from raybench.execution.debugger import before_debugger
from raybench.plan.plan import plan
from raybench.plan.view import stage_rows
from raybench.progress.words import folded
from raybench.reports.comparison import compare
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.modules import module_hint
from raybench.sweep.reader import load_sweep
from raybench.tasks.protocol import check_calibration
from tests.unit.result_rows import row, trial
from tests.unit.sweeps import written

PACKAGE = Path(raybench.__file__).parent
OWN = "def net(num_classes, in_channels, image_size): ...\ndef _part(): ...\nclass Other: ...\n"


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(0, ("cell",), "0 cells"), (1, ("cell",), "1 cell"), (2, ("cell",), "2 cells"), (2, ("box", "boxes"), "2 boxes")],
)
def test_counts_take_the_right_number(number, noun, expected):
    assert counted(number, *noun) == expected


COUNTED = re.compile(
    r"\} (cells|epochs|groups|methods|classes|threads|files|steps|seeds|units|tensors|pairs|names|attempts)\b"
)
SEVERAL = {  # texts that are printed for two and more alone, or where one is as right: `1 of 1 training files`
    "cli/results.py", "datasets/files.py", "datasets/tree.py", "plan/only.py", "execution/queue.py",
    "groups/members.py", "reports/findings/regularizers.py", "reports/pages/rank_views.py", "serve/new_routes.py",
    "sweep/sweep.py", "pipeline/base.py",
}  # fmt: skip


def test_counted_nouns_take_the_right_number_everywhere():
    """An f-string with a number before a plural prints `1 cells` one day: errors.counted has both forms."""
    wrong = [
        f"{file.relative_to(PACKAGE)}: {line.strip()}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for line in file.read_text("utf-8").splitlines()
        if COUNTED.search(line) and '"""' not in line and str(file.relative_to(PACKAGE)) not in SEVERAL
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("dict", "a dict"), ("Identity", "an Identity"), ("LSTM", "an LSTM"), ("GRU", "a GRU"), ("UNet", "a UNet")],
)
def test_articles(noun, expected):
    assert with_article(noun) == expected


def test_a_line_is_never_broken_within_a_duration():
    line = "0/16 cells (0 ok, 0 failed, 0 skipped), 1 unit running, 14s elapsed, about 3m 02s left"
    for width in range(20, 90):
        lines = folded(line, width)
        assert " ".join(part.strip() for part in lines) == line
        assert any("about 3m 02s left" in part for part in lines)
        assert all(len(part) <= max(width, 27) for part in lines)


def test_the_panel_leaves_the_terminal_to_a_debugger(monkeypatch):
    seen = []
    monkeypatch.setattr(bdb.Bdb, "set_trace", lambda self, frame=None: seen.append(frame.f_code.co_name))
    end = before_debugger(lambda: seen.append("left"))
    for debugger in (bdb.Bdb(), pdb.Pdb()):
        debugger.set_trace()
    end()
    bdb.Bdb.set_trace(pdb.Pdb(), sys._getframe())
    here = "test_the_panel_leaves_the_terminal_to_a_debugger"
    assert seen == ["left", here] * 2 + [here]


def test_a_plan_counts_the_cells_of_its_selections(tmp_path):
    axes = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: random\nspeedups: 2\nrecipe: small\n"
    said = [row["what"] for row in stage_rows(plan(load_sweep(written(tmp_path, axes)))) if row["units"]]
    assert said[-1] == "selections of channels for 1 cell; 1 from nothing"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("mynet", "found 'mynet', expected module:function. mynet.py is in this folder: type mynet:net or mynet:Other"),
        ("mynet.py", "type mynet:net or mynet:Other"),
        ("mynet.net", "found 'mynet.net', expected module:function. mynet.py is in this folder: type mynet:net"),
        ("pack.deep", "type pack.deep:FUNCTION"),
        ("pack/deep.py", "pack/deep.py is in this folder: type pack.deep:FUNCTION"),
        ("resnet18", None),
        ("nowhere.net", None),
    ],
)
def test_a_module_of_this_folder_is_recognised(typed, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(OWN)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/deep.py").write_text("net = (\n")  # can't be parsed
    found = module_hint(typed)
    assert found is None if hint is None else found.endswith(hint)


def test_prune_and_sweeps_suggest_module_and_function(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(OWN)
    (tmp_path / "s.yaml").write_text("name: s\ndatasets: digits\nmodels: mynet\nmethods: random\nspeedups: 2\n")
    for command in (["prune", "--model", "mynet", "--speedup", "2"], ["validate", "s.yaml"]):
        assert main(command) == 2
        assert "mynet.py is in this folder: type mynet:net or mynet:Other" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "said"), [([], True), (["--dataset", "digits"], False)])
def test_prune_says_which_dataset_is_the_default(options, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("raybench.cli.prune.run_sweep", lambda *a, **k: (_ for _ in ()).throw(UserError("stop")))
    assert main(["prune", "--model", "test-convnet", "--speedup", "2", *options]) == 2
    assert ("dataset: digits, the default; --dataset NAME chooses another" in capsys.readouterr().err) is said


def test_too_many_calibration_images_name_their_key():
    facts = DataFacts("flowers", "classification", 3, 3, 32, (0.0,) * 3, (1.0,) * 3, "")
    with pytest.raises(UserError, match=r"sets 256 calibration images, .* set `calibration_images: 12` or less"):
        check_calibration(facts, 256, 12)


def test_compare_without_a_match_prints_no_empty_table(tmp_path, capsys):
    store = Store(open_storage(str(tmp_path)))
    store.publish(row(trial("random", strategy="local"), metric_final=80.0))
    assert not compare(Leaderboard.read(store, Query())).rows
    assert main(["compare", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "0 cells" not in printed.out
    assert "no finished" in printed.err
