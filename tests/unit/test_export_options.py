"""`export --quantize` and `--push-to-hub`: what is written, printed and uploaded, and mistakes in their options."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from raybench import registry
from raybench.cli.main import main
from raybench.datasets.open import facts_of
from raybench.models.build import build_model
from raybench.pipeline.export import ABOUT


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> tuple[str, str]:
    """(results, id) of a small pruned network."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    net = build_model("test-convnet", facts_of(registry.dataset.entry("digits")))
    torch.save(net.state_dict(), folder / "w.pt")
    results = str(folder / "pruned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        command = ["prune", "--model", "test-convnet", "--weights", str(folder / "w.pt"), "--no-finetune"]
        assert main([*command, "--speedup", "2", "--calibration-images", "32", "-o", results]) == 0
    return results, next((folder / "pruned/artifacts").iterdir()).name


def test_int8_is_written_and_compared(pruned, tmp_path, capsys) -> None:
    results, trial_id = pruned
    file = tmp_path / "q.onnx"
    assert main(["export", trial_id, "--results", results, "--quantize", "int8", "-o", str(file)]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"{file}: int8 ONNX, calibrated on 32 images")
    assert lines[1].split() == ["ONNX", "top1", "%", "ms,", "1", "image", "file", "MB"]
    assert [line.split()[0] for line in lines[2:]] == ["fp32", "int8"]
    figures = [[float(word) for word in line.split()[1:]] for line in lines[2:]]
    assert abs(figures[0][0] - figures[1][0]) < 20
    assert "pre-process" not in printed.err
    import onnx

    made = onnx.load(file)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in made.graph.node}
    assert [one.name for one in (*made.graph.input, *made.graph.output)] == ["input", "logits"]
    about = {one.key: one.value for one in made.metadata_props}
    assert json.loads(about["classes"]) == list("0123456789")
    assert (json.loads(about["input_shape"]), len(json.loads(about["mean"]))) == ([1, 8, 8], 1)


def test_a_program_says_how_it_is_used(pruned, tmp_path, capsys) -> None:
    results, trial_id = pruned
    file, found = tmp_path / "p.pt2", {ABOUT: ""}
    assert main(["export", trial_id, "--results", results, "-o", str(file)]) == 0
    torch.export.load(file, extra_files=found)
    about = json.loads(found[ABOUT])
    assert (about["input"], about["output"], about["model"]) == ("input", "logits", "test-convnet")
    assert {"input_shape", "mean", "std", "classes"} <= set(about)


HTTPError = HfHubHTTPError.__bases__[0]  # of the HTTP library that huggingface_hub uses: what a lost network raises


class Hub:
    """What of huggingface_hub is used."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def create_repo(self, name, *, private, exist_ok):
        self.calls.append(("create", name, private, exist_ok))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append(("folder", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    def upload_file(self, *, repo_id, path_or_fileobj, path_in_repo):
        self.calls.append(("file", repo_id, path_in_repo))


@pytest.mark.parametrize(
    ("target", "uploaded"),
    [
        ("net", [("folder", "me/net", ["README.md", "model.safetensors", "pruned.json"])]),
        ("net.safetensors", [("file", "me/net", "net.safetensors"), ("file", "me/net", "README.md")]),
    ],
)
def test_the_hub_gets_the_network_and_its_card(target, uploaded, pruned, tmp_path, capsys, monkeypatch) -> None:
    results, trial_id = pruned
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    command = ["export", trial_id, "--results", results, "-o", str(tmp_path / target), "--push-to-hub", "me/net"]
    assert main([*command, "--private"]) == 0
    assert hub.calls == [("create", "me/net", True, True), *uploaded]
    assert capsys.readouterr().out.endswith("uploaded to https://huggingface.co/me/net\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalTokenNotFoundError("x"), "nobody is logged in: hf auth login"),
        (OSError("no route"), "me/net: no route"),
        (HTTPError("Connection refused"), "me/net: Connection refused"),
    ],
)
def test_a_hub_that_refuses_is_one_sentence(error, said, pruned, tmp_path, capsys, monkeypatch) -> None:
    results, trial_id = pruned

    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(create_repo=refuse))
    command = ["export", trial_id, "--results", results, "-o", str(tmp_path / "net"), "--push-to-hub", "me/net"]
    assert main(command) == 2
    assert f"--push-to-hub{'' if 'nobody' in said else ' '}" in (err := capsys.readouterr().err)
    assert said in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--push-to-hub", "net"], "--push-to-hub: found 'net', expected USER/NAME"),
        (["--private"], "--private: found no --push-to-hub beside it"),
        (["--data-root", "x"], "--data-root: found no --quantize beside it"),
        (["--quantize", "int8", "--format", "torch-export"], "--quantize: found the format torch-export beside it"),
        (["--quantize", "int8", "-o", "net.safetensors"], "--quantize: found the format safetensors beside it"),
    ],
)
def test_options_that_dont_fit_are_named(options, said, pruned, capsys) -> None:
    results, trial_id = pruned
    assert main(["export", trial_id, "--results", results, *options]) == 2
    assert said in capsys.readouterr().err


def test_other_bits_are_refused_with_the_values(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["export", "0" * 16, "--quantize", "int4"])
    assert "--quantize: found 'int4', expected int8" in capsys.readouterr().err
