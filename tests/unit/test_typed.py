"""What people type besides the obvious: quantities, short forms, files by ending, mistyped options and names."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from raybench.cli.job_arguments import add_address
from raybench.cli.main import VERBS, main
from raybench.cli.parser import Parser
from raybench.cli.quantities import duration, parameter, speedup
from raybench.errors import nearest, unknown
from raybench.reports.query import query
from raybench.reports.text import signed
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.local import LocalStorage
from raybench.storage.open import open_storage
from raybench.sweep.modules import as_module
from raybench.sweep.reader import load_sweep, recipe_files
from raybench.sweep.resolve import resolve
from tests.cluster.fakes import ok
from tests.unit.result_rows import row, trial
from tests.unit.test_watch import Watched


@pytest.fixture
def results(tmp_path):
    """A storage with two speed-ups of two methods and a failed cell with a traceback."""
    store = Store(open_storage(tmp_path / "my results"))
    for target in (2.0, 4.0):
        for place, name in enumerate(("lamp", "fpgm")):
            store.publish(row(trial(name, speedup=target), metric_final=90.0 + place - target))
    store.storage.create("tracebacks/x.txt", b"Traceback: it broke here")
    failed = {"stage": "finetune", "error_type": "ValueError", "error_message": "broke"}
    store.publish_attempt(Record.failed(trial("random"), **failed, traceback_path="tracebacks/x.txt"))
    return store


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("1h 30m", 5400), ("2d", 172800)]
)
def test_durations(text, seconds) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1y", "h", "1h30", "1h x", "nan"])
def test_durations_that_are_none(text) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a duration such as 90, 30m, 1h or 2d"):
        duration(text)


@pytest.mark.parametrize(("text", "value"), [("2", 2.0), ("2x", 2.0), ("1.5X", 1.5)])
def test_speedups(text, value) -> None:
    assert speedup(text) == value


@pytest.mark.parametrize("text", ["1", "0.5x", "two", "x", "inf", "nan", "2xx"])
def test_speedups_that_are_none(text) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 1, such as 2 or 2x"):
        speedup(text)


def test_parameters_are_read_as_yaml_reads_them() -> None:
    read = [parameter(text)[1] for text in ("a=3", "a=.5", "a=1e-3", "a=true", "a=out", "a=x=y")]
    assert read == [3, 0.5, 0.001, True, "out", "x=y"]


@pytest.mark.parametrize(
    ("typed", "known", "found"),
    [
        ("l1", ["lamp", "magnitude-l1"], "magnitude-l1"),
        ("warmup", ["epochs", "warmup_epochs"], "warmup_epochs"),
        ("resnet", ["random", "resnet18"], "resnet18"),
        ("taylr", ["taylor", "random"], "taylor"),
        ("gpu", ["auto", "cpu", "cuda"], "cuda"),
        ("learning_rate", ["epochs", "lr", "min_lr"], "lr"),
    ],
)
def test_the_nearest_name(typed, known, found) -> None:
    assert nearest(typed, known) == f" Did you mean {found!r}?"


def test_many_names_are_listed_by_their_verb() -> None:
    few, many = unknown("recipe", "quik", ["quick"]), unknown("model", "n7x", [f"n{place}" for place in range(99)])
    assert few == "unknown recipe 'quik'. Did you mean 'quick'? Known: quick"
    assert many.endswith("`raybench models` lists all 99")
    assert unknown("criterion", "x", map(str, range(99))).endswith("`raybench methods` lists all 99")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--modle", "x"], "unknown option '--modle'. Did you mean '--model'?"),
        (["models", "--jsn"], "unknown option '--jsn'. Did you mean '--json'?"),
        (
            ["leaderboard", "x", "--format", "jso"],
            "--format: found 'jso', expected table, markdown, csv, json, parquet, latex.",
        ),
        (["prune", "--model", "x", "--speedup", "2", "--seed", "a"], "--seed: found 'a', expected a whole number."),
        (["new-method", "x", "--needs", "weigts"], "Did you mean 'weights'?"),
        (["gc", "x", "--older", "soon"], "--older: found 'soon', expected a duration"),
        (["gc"], "the following arguments are required: STORAGE."),
    ],
)
def test_mistyped_options_are_one_line_with_the_nearest_name(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().err
    assert (end.value.code, said.count("\n")) == (2, 1)
    assert message in said


def test_the_dashboards_address_comes_from_a_variable_and_needs_no_scheme(monkeypatch) -> None:
    def address(*typed: str) -> str:
        parser = Parser(prog="raybench jobs")
        add_address(parser)
        return parser.parse_args(list(typed)).address

    assert address("--address", "head:8265") == "http://head:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://other/")
    assert address() == "https://other"
    monkeypatch.setenv("RAYBENCH_ADDRESS", "head:1")
    assert address() == "http://head:1"
    assert address("--address", "http://b:2") == "http://b:2"


def test_json_quiet_and_colours(results, capsys, monkeypatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["recipes", "--json", "--no-color"]) == 0
    assert {"quick", "photos"} <= {one["name"] for one in json.loads(capsys.readouterr().out)}
    assert sys.modules["os"].environ["NO_COLOR"] == "1"
    monkeypatch.setattr("raybench.cli.results.MANY_FILES", 0)
    command = ["leaderboard", results.storage.url, "--speedup", "2x"]
    assert main(command) == 0
    assert capsys.readouterr().err.startswith("hint: ")
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["leaderboard", "nowhere", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("raybench leaderboard: ")


def test_recipes_print_a_start(tmp_path, capsys, monkeypatch) -> None:
    assert main(["recipes", "quick"]) == 0
    assert capsys.readouterr().out == recipe_files(tmp_path)["quick"].read_text("utf-8")
    assert main(["recipes", "quik"]) == 2
    assert "unknown recipe 'quik'. Did you mean 'quick'?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_options_and_names(shell, capsys) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*VERBS, "cifar-resnet20", "magnitude-l2", "imagefolder", "speedup"):
        assert word in script, word


def test_completion_in_bash(capsys, tmp_path) -> None:
    main(["completion", "bash"])
    (tmp_path / "r/artifacts/0123abcd").mkdir(parents=True)
    asked = ["raybench pr", "raybench prune --model resnet1", "raybench leaderboard x --form", "raybench show 01"]
    lines = [
        f"COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; _raybench; echo ${{COMPREPLY[@]}}" for line in asked
    ]
    script = "\n".join([capsys.readouterr().out, *lines])
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert found.splitlines() == ["prune", "resnet18", "--format", "0123abcd"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("raybench prune --method lamp magnitude-", "magnitude-l1 magnitude-l2"),
        ("raybench prune resnet1", "resnet18"),
        ("raybench inspect resnet1", "resnet18"),
        ("raybench run quick", "quickstart"),
        ("raybench recipes ph", "photos"),
        ("raybench prune --strategy is", "isomorphic"),
        ("raybench prune --recipe ph", "photos"),
        ("raybench prune --device c", "cpu cuda"),
        ("raybench prune --weights me", ""),  # a file, which the shell completes
        ("raybench prune --method lamp --we", "--weights"),
        ("raybench data get im", "imagefolder imagenet"),
    ],
)
def test_completion_knows_what_each_word_may_be(line, found, bash_completion) -> None:
    assert bash_completion(line) == found


@pytest.fixture(scope="module")
def bash_completion():
    """A function that completes the last word of a line in bash."""
    script = io.StringIO()
    with redirect_stdout(script):
        main(["completion", "bash"])

    def completed(line: str) -> str:
        asked = f"COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; _raybench; echo ${{COMPREPLY[@]}}"
        command = ["bash", "-c", f"{script.getvalue()}\n{asked}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return completed


def test_files_by_their_ending(results, tmp_path, capsys) -> None:
    url = results.storage.url
    for ending, start in (
        (".parquet", b"PAR1"),
        (".csv", b"dataset,"),
        (".json", b"{"),
        (".md", b"- device"),
        (".txt", b"dev"),
    ):
        file = tmp_path / f"board{ending}"
        assert main(["leaderboard", url, "-o", str(file)]) == 0
        assert file.read_bytes().startswith(start)
        assert capsys.readouterr().out.startswith(f"wrote {file}: 2 rankings, 4 rows, ")
    assert main(["leaderboard", url, "-o", str(tmp_path / "board.xlsx")]) == 2
    assert "found the ending '.xlsx', expected one of .txt, .md, .csv, .json, .parquet" in capsys.readouterr().err
    assert main(["export", "x", "--results", url, "-o", "net.onx"]) == 2
    assert "found the ending .onx, expected .safetensors, .onnx, .pt2, .pt" in capsys.readouterr().err


def test_one_table_for_all_speedups(results, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["leaderboard", results.storage.url, "--wide"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = [place for place, line in enumerate(lines) if line.startswith("method")]
    assert lines[head].split() == ["method", "base", "2x", "4x", "mean", "Δ"]
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["fpgm", "lamp"]
    assert lines[head + 1].split()[2:5] == ["89.00", "87.00", "88.00"]
    assert max(map(len, lines[: head + 3])) <= 80


def test_a_speedup_that_is_not_there_names_those_that_are(results, capsys) -> None:
    assert main(["leaderboard", results.storage.url, "--speedup", "3"]) == 2
    assert "no results with speed-up 3x: this store has 2x and 4x" in capsys.readouterr().err


def test_a_running_sweep_says_how_many_of_how_many(tmp_path, capsys) -> None:
    watched = Watched(LocalStorage(tmp_path / "my store"))
    url = watched.storage.url
    for verb in (["leaderboard", url], ["merge", str(tmp_path / "all"), url]):
        assert main(verb) == 2
        assert f"no cell has finished yet (0 of 3); raybench watch '{url}'" in capsys.readouterr().err
    watched.work(ok)
    assert main(["leaderboard", url]) == 0
    assert f"note: mine: 1 of 3 cells have finished; raybench watch '{url}'" in capsys.readouterr().err


def test_a_zero_has_no_minus() -> None:
    assert (signed(-0.004), signed(-0.006), signed(2)) == ("+0.00", "-0.01", "+2.00")


def test_show_quotes_its_command_and_prints_the_traceback(results, capsys) -> None:
    failed = next(trial_id for trial_id, status in results.statuses().items() if status == "failed")
    assert main(["show", failed, "--results", results.storage.url]) == 0
    out = capsys.readouterr().out
    assert f"--results '{results.storage.url}'" in out
    assert out.endswith("Traceback: it broke here\n")


def test_query_has_labels_parameters_and_all_tables(results) -> None:
    tables = {found[0] for found in query(results, "SHOW TABLES").rows}
    assert tables == {"trials", "leaderboard", "published", "literature", "curves", "layers"}
    found = query(
        results, "SELECT label, method_params, speedup_target, params_count = params FROM trials WHERE status = 'ok'"
    )
    assert {one[0] for one in found.rows} == {"lamp", "fpgm"}
    assert all(json.loads(one[1]) is not None and one[3] for one in found.rows)
    assert query(results, "SELECT count(*) FROM trials").rows == ((5,),)
    assert {"label", "method_params"} <= set(query(results, "SELECT * FROM trials").columns)


METHODS = (
    "[{name: magnitude-l2, params: {normalize: [mean, max]}}, "
    "{name: lamp+group-lasso, regularizer_params: {strength: [0.1, 0.2]}}]"
)


def test_a_list_as_a_parameter_is_an_axis_and_labels_say_it(tmp_path) -> None:
    from raybench.sweep.method_label import method_label

    file = tmp_path / "s.yaml"
    file.write_text(
        f"name: s\ndatasets: digits\nmodels: test-convnet\nmethods: {METHODS}\nspeedups: [2x, 3]\nrecipe: quick\n"
    )
    trials = resolve(load_sweep(file))
    assert len(trials) == 8
    labels = {method_label(one.model_dump()) for one in trials}
    strengths = {"lamp+group-lasso(strength=0.1)", "lamp+group-lasso(strength=0.2)"}
    assert labels == {"magnitude-l2", "magnitude-l2(normalize=max)", *strengths}


def test_a_recipe_needs_no_sparsify_stage_without_a_regularizer(tmp_path) -> None:
    stages = "{base: {epochs: 1, lr: 0.1}, finetune: {epochs: 1, lr: 0.1}}"
    text = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: METHOD\nspeedups: 2\nrecipe: RECIPE\n"
    file = tmp_path / "s.yaml"
    file.write_text(text.replace("RECIPE", stages).replace("METHOD", "lamp"))
    assert len(resolve(load_sweep(file))) == 1
    file.write_text(text.replace("RECIPE", stages).replace("METHOD", "lamp+group-lasso"))
    with pytest.raises(Exception, match=r"sparsify: the key is missing; method 'lamp\+group-lasso' has a regularizer"):
        resolve(load_sweep(file))


@pytest.mark.parametrize("needs", ["weights", "gradients", "sample-gradients", "activations"])
def test_each_start_of_a_method_conforms(needs, tmp_path) -> None:
    from raybench.testing.conformance import check_file

    assert main(["new-method", f"own-{needs}", "--needs", needs, "--folder", str(tmp_path)]) == 0
    assert len(list(check_file(tmp_path / f"own_{needs.replace('-', '_')}.py"))) == 1


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("mine.py:net", "mine:net"),
        ("./nets/mine.py:net", "nets.mine:net"),
        ("mine:net", "mine:net"),
        ("timm:x", "timm:x"),
    ],
)
def test_a_file_stands_for_its_module(typed, name) -> None:
    assert as_module(typed) == name


def test_quitting_the_debugger_ends_a_local_run(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "quits.py").write_text(
        "from bdb import BdbQuit\nfrom dataclasses import dataclass\n\n"
        "from raybench.methods.protocols import ElementwiseImportance\nfrom raybench.registry import importance\n\n\n"
        '@importance("quits-a-debugger")\n@dataclass(frozen=True)\nclass Quits(ElementwiseImportance):\n'
        '    needs = "weights"\n\n'
        "    def saliency(self, layer):\n        raise BdbQuit\n"
    )
    (tmp_path / "s.yaml").write_text(
        "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: [quits-a-debugger, random]\nspeedups: 2\n"
        "recipe: {extends: quick, base: {epochs: 0, warmup_epochs: 0}, finetune: {epochs: 0, warmup_epochs: 0}}\n"
    )
    plugin = ["--plugin", str(tmp_path / "quits.py")]
    assert main(["run", str(tmp_path / "s.yaml"), "--local", "--storage", str(tmp_path / "r"), *plugin]) == 130
    said = capfd.readouterr()
    assert "interrupted; to continue: " in said.out
    assert "failed" not in said.out


def test_verbose_prints_every_epoch_and_tracebacks(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("raybench.progress.epochs.EVERY_S", 1000.0)
    command = ["prune", "--model", "test-convnet", "--dataset", "digits", "--speedup", "2", "--recipe"]
    recipe = tmp_path / "short.yaml"
    recipe.write_text("base: {epochs: 3, lr: 0.1}\nfinetune: {epochs: 2, lr: 0.1}\n")
    for verbose, count in (([], 0), (["--verbose"], 5)):
        assert main([*command, str(recipe), "-o", str(tmp_path / f"pruned{count}"), *verbose]) == 0
        printed = capfd.readouterr().err
        assert (
            len([line for line in printed.splitlines() if line.strip().startswith("epoch ") and "loss" in line])
            == count
        )
    for verbose in (False, True):
        assert main(["leaderboard", str(tmp_path / "none"), *["--verbose"] * verbose]) == 2
        assert ("Traceback" in capfd.readouterr().err) is verbose
    assert main(["methods", "--quiet", "--verbose"]) == 2
    assert "--verbose: found --quiet beside it" in capfd.readouterr().err


def test_query_has_parameters_as_a_struct(results) -> None:
    sql = "SELECT DISTINCT method_struct.params.cap FROM trials ORDER BY ALL"
    for cap in (1, 2.5):
        results.publish(row(trial("lamp", params={"cap": cap}, seed=7)))
    assert query(results, sql).rows == ((1.0,), (2.5,), (None,))
    results.publish(row(trial("fpgm", params={"cap": "none"}, seed=7)))
    assert query(results, sql).rows == (("1",), ("2.5",), ("none",), (None,))


def test_a_variable_that_torch_refuses_is_named_without_a_traceback() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "raybench", "inspect", "test-convnet"],
        env=os.environ | {"TORCH_LOGS": "junk"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    expected = "TORCH_LOGS: found 'junk', expected names of torch's logs or modules, such as dynamo, or no TORCH_LOGS"
    assert (found.returncode, found.stderr) == (2, f"raybench inspect: {expected}\n")
