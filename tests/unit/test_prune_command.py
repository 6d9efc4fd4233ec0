"""`raybench prune` from the command line: mistakes in the words of its options, floors told, nothing done twice."""

from __future__ import annotations

import importlib
import signal
import threading
import warnings

import pytest
import timm
import torch

from raybench import registry
from raybench.cli import prune_progress
from raybench.cli.main import main
from raybench.datasets.open import facts_of
from raybench.errors import UserError
from raybench.models.build import build_model
from raybench.models.timm_nets import any_timm
from raybench.reports.pruned_text import best_lines
from raybench.sweep.modules import strange_parameters

NET = ["prune", "--model", "test-convnet", "--dataset", "digits", "--no-finetune"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--strategy", "globl"], "--strategy: found 'globl', expected 'local', 'global'"),
        (["--recipe", "quik"], "--recipe: unknown recipe 'quik'. Did you mean 'quick'"),
        (["--prune", "head"], "--prune: found 'head', expected 'embed', 'heads', 'head-dim' or 'mlp'"),
        (["--round-to", "0"], "--round-to: found 0, expected a number of at least 1"),
        (["--depth", "1.5"], "--depth: found 1.5, expected a number above 0 and at most 1"),
        (["--seed", "-1"], "--seed: found -1, expected a number of at least 0"),
        (["--dataset", "cifar10"], "--data-root: found none, expected the folder of cifar10"),
        (["--method", "magnitud"], "--method: unknown method 'magnitud'. Did you mean"),
        (["--method", "random", "l1"], "--method: unknown method 'l1'. Did you mean 'magnitude-l1'"),
        (
            ["--model-param", "wdth=8"],
            "--model-param wdth: unknown parameter of model 'test-convnet'. Did you mean 'width'",
        ),
        (["--dataset-param", "seed=1"], "--dataset-param seed: unknown parameter of dataset 'digits'. Did you mean"),
        (["--image-size", "32"], "--image-size: found 32, expected none: digits has a fixed size"),
        (["--calibration-images", "0"], "--calibration-images: found 0, expected a number of at least 1"),
        (["--epochs", "3"], "--no-finetune: found --epochs or --lr beside it"),
        (["--dataset", "photos"], "own images: --dataset imagefolder --data-root DIR"),
    ],
)
def test_mistakes_name_the_option_and_leave_no_folder(option, message, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("RAYBENCH_DATA", raising=False)
    output = tmp_path / "pruned"
    assert main([*NET, "--speedup", "2", *option, "-o", str(output)]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "MODEL: found none, expected one of raybench models, timm:NAME or module:function"),
        (["resnet81"], "MODEL: unknown model 'resnet81'. Did you mean 'resnet18'"),
        (["resnet18", "--model", "resnet50"], "--model: found 'resnet50' beside MODEL 'resnet18', expected one"),
        (["own.py:net", "--model-param", "widht=3"], "--model-param widht: unknown parameter of model 'own:net'. Did"),
        (["own:Net", "--model-param", "self=3"], "unknown parameter of model 'own:Net'. Known: num_classes, width"),
    ],
)
def test_the_model_is_the_first_word(typed, message, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "def net(num_classes, width=8): ...\n\n\nclass Net:\n    def __init__(self, num_classes, *, width=8): ...\n"
    )
    assert main(["prune", *typed, "--speedup", "2"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("source", ["def net(**more): ...", "net = print", "@print\ndef net(): ...", "def net(:"])
def test_parameters_that_only_the_code_knows_pass(source, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "any_of.py").write_text(f"{source}\n")
    assert not list(strange_parameters("any_of:net", ["width"]))


@pytest.mark.parametrize(
    ("name", "parameter", "near"),
    [
        ("resnet18", "drop_ratee", "Did you mean 'drop_rate'?"),
        ("vit_tiny_patch16_224.augreg_in21k", "embed_dimm", "Did you mean 'embed_dim'?"),
        ("deit3_small_patch16_224", "depht", "Did you mean 'depth'?"),
        ("efficientnet_b0", "globalpool", "Did you mean 'global_pool'?"),
        ("resnet18", "block_fn", None),  # a word of the file, so that timm has to be asked
    ],
)
def test_timms_parameters_are_read_from_its_source(name, parameter, near) -> None:
    found = [message for message, _ in strange_parameters(f"timm:{name}", [parameter, "drop_rate", "features_only"])]
    assert len(found) == (near is not None)
    assert all(f"unknown parameter of model 'timm:{name}'. {near} Known: " in message for message in found)


def test_parameters_of_timms_networks_are_told_with_the_option(capsys) -> None:
    known = ["prune", "timm:resnet18", "--dataset", "digits", "--method", "lamp", "--speedup", "2", "--model-param"]
    assert main([*known, "drop_ratee=1"]) == 2
    assert "--model-param drop_ratee: unknown parameter of model 'timm:resnet18'. Did you" in capsys.readouterr().err
    assert main([*known, "num_classes=5"]) == 2
    assert "num_classes: found a value, expected none: it is that of the dataset" in capsys.readouterr().err
    with pytest.raises(UserError, match="block_fn: unknown parameter of model 'timm:resnet18'"):
        any_timm(10, 1, 32, timm_name="resnet18", block_fn=1)


def test_every_kind_of_timms_networks_is_found_in_its_source() -> None:
    by_module = {timm.models._registry._model_to_module[one]: one for one in timm.list_models()}
    silent = [one for one in by_module.values() if len(list(strange_parameters(f"timm:{one}", ["no_such_word_"]))) != 1]
    assert (silent, len(by_module) > 50) == ([], True)


def test_layers_to_keep_are_looked_for_before_the_base_is_trained(tmp_path, capsys) -> None:
    command = ["prune", "test-convnet", "--speedup", "2", "--keep", "conv9", "-o", str(tmp_path)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "keep: TinyConvNet has no module 'conv9'. Did you mean 'conv" in said
    assert "base:" not in said


def test_equal_networks_share_the_first_place() -> None:
    rows = [
        {"label": name, "speedup_target": 2.0, "metric_final": 90.0 - place // 2, "files": f"out/{name}"}
        for place, name in enumerate(("lamp", "fpgm", "random"))
    ]
    assert list(best_lines(rows, "accuracy")) == ["best accuracy at 2x: lamp, 90 %", "    equal: fpgm", "    out/lamp"]


@pytest.mark.parametrize(("option", "value"), [("--epochs", "-1"), ("--lr", "0")])
def test_settings_of_the_recipe_are_named_by_their_option(option, value, tmp_path, capsys) -> None:
    assert main([*NET[:-1], "--speedup", "2x", option, value, "-o", str(tmp_path / "pruned")]) == 2
    assert capsys.readouterr().err.startswith(f"raybench prune: {option}: found ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "base: {epochs: 1}\nsparsify: {epochs: 1, lr: x}\nfinetune: {epochs: 1, lr: 1, foo: 3}\n",
            ["1: base.lr: the key is missing", "2: sparsify.lr: found 'x', expected", "3: finetune.foo: unknown key"],
        ),
        ("base: [1\n", ["2: not YAML"]),
        ("", ["1: found an empty file"]),
    ],
)
@pytest.mark.parametrize("option", [[], ["--no-finetune"]])
def test_mistakes_in_a_recipes_file_are_told_with_their_place(content, expected, option, tmp_path, capsys) -> None:
    (tmp_path / "r.yaml").write_text(content)
    assert main([*NET[:-1], *option, "--speedup", "2", "--recipe", str(tmp_path / "r.yaml")]) == 2
    said = capsys.readouterr().err.removeprefix("raybench prune: ").splitlines()
    assert len(said) == len(expected)
    for line, start in zip(said, expected, strict=True):
        assert line.startswith(f"{tmp_path / 'r.yaml'}:{start}")


def test_an_unreachable_target_is_told_below_the_table_and_a_repeat_costs_nothing(
    tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # locks of its own: nobody else on this machine to wait for
    facts = facts_of(registry.dataset.entry("digits"))
    torch.save(build_model("test-convnet", facts).state_dict(), tmp_path / "w.pt")
    command = [*NET, "--weights", str(tmp_path / "w.pt"), "--speedup", "900", "900", "-o", str(tmp_path / "pruned")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("MACs ") for line in lines) == 1
    assert any(line.startswith("    900x was missed: floor: best reachable ") for line in lines)
    assert all(len(line) <= 100 for line in lines[:10])
    assert main(command) == 0
    printed = capsys.readouterr()
    assert (printed.out.splitlines(), printed.err) == (lines, "")


def test_methods_share_what_the_default_folder_holds(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    torch.manual_seed(0)
    facts = facts_of(registry.dataset.entry("digits"))
    torch.save(build_model("test-convnet", facts).state_dict(), tmp_path / "w.pt")
    for method, much in (("magnitude-l2", "--speedup=2"), ("lamp", "--ratio=0.3")):
        assert main([*NET, "--weights", "w.pt", "--method", method, much]) == 0
    progress = [line for line in capsys.readouterr().err.splitlines() if line[0] != " "]
    kinds = ["recipe", "base", "warning", "select", "cell", "recipe", "select", "cell"]
    assert [line.partition(":")[0] for line in progress] == kinds
    assert progress[0].endswith("fine-tuning 0 epochs")
    assert "the loaded weights score near chance: top1 " in progress[2]
    assert "lamp ratio 0.3 protected-global" in progress[-1]
    assert [folder.name for folder in (tmp_path / "pruned").iterdir()] == ["test-convnet"]


def test_a_device_that_is_not_there_is_named_before_anything_is_written(tmp_path, capsys) -> None:
    assert main([*NET, "--speedup", "2", "--device", "cuda:99", "-o", str(tmp_path / "pruned")]) == 2
    assert capsys.readouterr().err.startswith("raybench prune: device: 'cuda:99' can't be used on this machine: ")
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize("then", [KeyboardInterrupt, TypeError])
def test_ctrl_c_is_one_sentence_also_where_a_library_turns_it_into_another_error(
    then, tmp_path, capsys, monkeypatch
) -> None:
    def interrupted_import(*args: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise then from None

    monkeypatch.setattr("raybench.pipeline.check.check_input", interrupted_import)
    assert main([*NET, "--speedup", "2", "-o", str(tmp_path / "pruned")]) == 130
    assert capsys.readouterr().err == "interrupted; the same command continues at the last finished epoch\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_our_warnings_are_one_line_and_others_are_left_alone(capsys) -> None:
    from raybench.cli import main as home

    with home.plain_warnings():
        warnings.warn_explicit("x keeps its width", UserWarning, home.__file__, 3)
        assert capsys.readouterr().err == "warning: x keeps its width\n"
        with pytest.warns(UserWarning, match="x"):
            warnings.warn_explicit("x", UserWarning, pytest.__file__, 3)
        assert capsys.readouterr().err == ""
    with pytest.warns(UserWarning, match="x"):
        warnings.warn_explicit("x", UserWarning, home.__file__, 3)


@pytest.mark.parametrize("form", ["safetensors", "torch-export"])
def test_an_export_to_where_nothing_can_be_written_names_the_folder(form, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    facts = facts_of(registry.dataset.entry("digits"))
    torch.save(build_model("test-convnet", facts).state_dict(), tmp_path / "w.pt")
    store = str(tmp_path / "pruned")
    assert main([*NET, "--weights", str(tmp_path / "w.pt"), "--speedup", "2", "-o", store]) == 0
    artifact = next((tmp_path / "pruned/artifacts").iterdir()).name
    capsys.readouterr()
    export = ["export", artifact, "--results", store, "--format", form, "-o"]
    for folder in ("/proc", str(tmp_path / "w.pt"), str(tmp_path / "w.pt/deeper")):
        assert main([*export, f"{folder}/pruned-net"]) == 2
        said = capsys.readouterr().err
        assert f"can't write into the folder {folder}: " in said
        assert "Traceback" not in said
    assert main([*export, str(tmp_path / "new/folder/net")]) == 0


def test_methods_are_ranked_on_one_base_and_the_networks_have_cards(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/__init__.py").write_text("")
    source = (
        "nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))"
    )
    (tmp_path / "nets/mine.py").write_text(f"from torch import nn\n\n\ndef net():\n    return {source}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    net = importlib.import_module("nets.mine").net()
    torch.save(net.state_dict(), "w.pt")
    command = ["prune", "--model", "nets/mine.py:net", "--weights", "w.pt", "--speedup", "2", "--no-finetune"]
    command += ["--method", "random", "magnitude-l2", "bn-scale", "--best", "accuracy"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "best accuracy at 2x: " in out
    assert "bn-scale 2x skipped: " in out
    assert all(len(line) <= 80 for line in out.splitlines()[:10])
    for name in (
        "speed-up (MACs)",
        "top1, %",
        "latency, 1 image",
        "latency, 32",
        "throughput",
        "parameters",
        "file, MB",
    ):
        assert sum(line.startswith(name) for line in out.splitlines()) == 1, name
    folder, _ = (tmp_path / "pruned/nets.mine-net/artifacts").iterdir()
    card = (folder / "README.md").read_text()
    assert "trust_code=True" in card
    assert "| top1, % | " in card
    assert str(tmp_path) not in card
    monkeypatch.delenv("COLUMNS")
    assert main(command) == 0
    wide = capsys.readouterr().out.splitlines()
    assert wide[0].split()[:2] == ["target", "speed-up"]
    assert {line.split()[0] for line in wide[1:3]} == {"random", "magnitude-l2"}


def test_an_own_function_gets_what_its_signature_takes() -> None:
    from raybench.models.foreign import taken

    shape = {"num_classes": 3, "in_channels": 1, "image_size": 8}
    assert taken(lambda: None, shape) == {}
    assert taken(lambda num_classes, width=3: None, shape) == {"num_classes": 3}
    assert taken(lambda **others: None, shape) == shape


class Waiting:
    """A unit of `lasts` seconds, whose clock goes on only while somebody waits for its end."""

    def __init__(self, lasts: float, prints=lambda: None) -> None:
        self.now, self._lasts, self._prints = 0.0, lasts, prints

    def wait(self, seconds: float) -> bool:
        """Whether it ends within `seconds`; it prints just before they are over."""
        self.now += seconds - 1
        self._prints()
        self.now += 1
        return self.now >= self._lasts

    def monotonic(self) -> float:
        """Seconds since its start."""
        return self.now


def test_a_silent_unit_says_that_it_works_and_one_that_prints_does_not(monkeypatch, capsys) -> None:
    sign = prune_progress.SignOfLife()
    for prints, expected in ((lambda: None, ["20s", "1m 00s", "2m 20s"]), (sign.heard, [])):
        unit = Waiting(300, prints)
        monkeypatch.setattr(prune_progress, "time", unit)
        sign.heard()
        sign._watch(unit, 0.0)
        assert capsys.readouterr().err.splitlines() == [f"  at work for {text}" for text in expected]


def test_the_sign_of_life_ends_with_the_unit() -> None:
    sign = prune_progress.SignOfLife()
    before = set(threading.enumerate())
    sign.begin()
    (thread,) = set(threading.enumerate()) - before
    sign.end()
    thread.join(60)
    assert not thread.is_alive()
