"""Messages for people: counts in the right number, names of the user's own modules, defaults that are said."""

import pytest

from raybench.cli.main import main
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError, counted
from raybench.plan.plan import plan
from raybench.plan.view import stage_rows
from raybench.reports.comparison import compare
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.modules import module_hint
from raybench.sweep.reader import load_sweep
from raybench.tasks.protocol import check_calibration
from tests.unit.result_rows import row, trial
from tests.unit.sweeps import written

OWN = "def net(num_classes, in_channels, image_size): ...\ndef _part(): ...\nclass Other: ...\n"


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(0, ("cell",), "0 cells"), (1, ("cell",), "1 cell"), (2, ("cell",), "2 cells"), (2, ("box", "boxes"), "2 boxes")],
)
def test_counts_take_the_right_number(number, noun, expected):
    assert counted(number, *noun) == expected


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
