"""Models in files of one's own, `module:function`: found in the current folder, known by source, refused by name."""

import hashlib
import importlib.util
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import raybench
from raybench.cli.main import main
from raybench.datasets.facts import DataFacts
from raybench.errors import SpecError, UserError
from raybench.models.build import build_model
from raybench.sweep.modules import check_function, module_source

NET = """
from torch import nn

def net(num_classes, in_channels, image_size):
    import {helper}  # as late as code can ask for it
    return nn.Sequential(
        nn.Conv2d(in_channels, {helper}.WIDTH, 3), nn.ReLU(), nn.Conv2d({helper}.WIDTH, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""
STAGE = {"epochs": 0, "lr": 0.1}
RECIPE = {"name": "none", "base": STAGE, "sparsify": STAGE, "finetune": STAGE}
FACTS = DataFacts("digits", "classification", 10, 1, 8, (0.5,), (0.5,), "")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, new and on no path that Python searches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # locks of its own: nobody else to wait for
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "r.yaml").write_text(json.dumps(RECIPE))
    return tmp_path


def sweep(folder, model):
    fields = {"name": "own", "models": [model], "datasets": ["digits"], "methods": ["magnitude-l2"], "speedups": [2],
            "recipe": RECIPE}  # fmt: skip
    (folder / "own.yaml").write_text(json.dumps(fields))
    return str(folder / "own.yaml")


def test_a_model_in_the_current_folder_is_found_by_every_verb(folder, capsys):
    (folder / "found_here.py").write_text(NET.format(helper="found_beside"))
    (folder / "found_beside.py").write_text("WIDTH = 12\n")
    before = list(sys.path)
    file = sweep(folder, "found_here:net")
    assert main(["plan", file, "--storage", "out"]) == 0
    assert main(["run", file, "--local", "--storage", "out"]) == 0
    command = ["prune", "--model", "found_here:net", "--speedup", "2", "--recipe", "r.yaml", "-o", "one"]
    assert main([*command, "--no-finetune"]) == 0
    artifact = next((folder / "one/artifacts").iterdir())
    assert (
        main(["export", artifact.name, "--results", "one", "--format", "torch-export", "-o", "net.pt2", "--trust-code"])
        == 0
    )
    assert raybench.load_pruned(artifact, trust_code=True)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert sys.path == [*before, str(folder)]  # last, so that it hides no library


def test_code_that_a_pruned_network_names_runs_only_if_it_is_trusted(folder, capsys):
    (folder / "harmful.py").write_text("raise SystemExit('it ran')\n")
    (folder / "pruned").mkdir()
    recipe = {"format": 1, "model": "harmful:net", "model_params": {}, "prune": [], "kept": {}, "data": asdict(FACTS)}
    (folder / "pruned/pruned.json").write_text(json.dumps(recipe))
    with pytest.raises(UserError, match=r"'net' of the module 'harmful'.*trust_code=True.*--trust-code"):
        raybench.load_pruned(folder / "pruned")
    with pytest.raises(UserError, match="it ran"):
        raybench.load_pruned(folder / "pruned", trust_code=True)


BRANCHES = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.photo, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, classes)

    def forward(self, x):
        few_levels = len(x.unique()) < x.numel() / 2 and bool(x.any())  # neither black nor noise
        x = self.first(x)
        x = self.photo(x) if few_levels else x
        return self.head(x.relu().mean((2, 3)))

def net(num_classes):
    return Net(num_classes)
"""


def test_a_network_that_takes_another_way_for_real_images_is_not_cut(folder):
    (folder / "branching.py").write_text(BRANCHES)
    raybench.run_sweep(sweep(folder, "branching:net"), "out", local=True)
    row = raybench.load_results("out").iloc[0]
    assert row["status"] == "skipped"
    assert "which layers run depends on what the image shows (photo ran" in row["reason"]


def test_what_is_installed_is_not_hidden_by_a_file_of_its_name(folder):
    (folder / "colorsys.py").write_text("def net(num_classes, in_channels, image_size): ...\n")
    with pytest.raises(UserError, match=r"model colorsys:net: .*colorsys.py has no function 'net'") as caught:
        build_model("colorsys:net", FACTS)
    assert str(folder) not in str(caught.value)


def test_a_module_that_is_nowhere_is_told_with_the_places_searched(folder, capsys):
    with pytest.raises(UserError, match="found no module 'not_there' in this folder") as caught:
        build_model("not_there:net", FACTS)
    assert str(folder) in str(caught.value)
    assert main(["plan", sweep(folder, "not_there:net"), "--storage", "out"]) == 2
    assert f"found no module 'not_there' in this folder ({folder})" in capsys.readouterr().err


def test_a_module_that_lacks_what_it_imports_says_what(folder):
    (folder / "lacking_some.py").write_text("import not_there_either\n")
    with pytest.raises(UserError, match="can't import 'lacking_some': No module named 'not_there_either'"):
        build_model("lacking_some:net", FACTS)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("(y, x.flatten(1))", "a tuple of (1, 10), (1, 64)"),
        ("{'out': y, 'aux': y}", "a dict with the keys out, aux"),
        ("y[0]", "a tensor (10,)"),
        ("None", "NoneType"),
    ],
)
def test_a_model_that_gives_other_than_one_tensor_is_refused_by_its_class(folder, capsys, given, found):
    name = f"gives_{abs(hash(given))}"  # modules stay in this process
    (folder / f"{name}.py").write_text(
        "from torch import nn\n\n\nclass Talker(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.linear = nn.Linear(64, 10)\n\n    def forward(self, x):\n        y = self.linear(x.flatten(1))\n"
        f"        return {given}\n\n\ndef net(num_classes, in_channels, image_size):\n    return Talker()\n"
    )
    command = ["prune", "--model", f"{name}:net", "--speedup", "2", "--recipe", "r.yaml", "-o", "one"]
    assert main(command) == 2
    expected = f"model Talker: found {found} for one image; it must give one tensor (1, 10), because dataset 'digits'"
    assert expected in capsys.readouterr().err


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


TREE = {
    "mine.py": "import torch\nfrom torch import nn\nimport beside\n\ndef net():\n    from pack.deep import near\n",
    "beside.py": "import mine\nW = 24\n",  # in a circle
    "pack/__init__.py": "from . import also\n",
    "pack/also.py": "import json\n",
    "pack/deep/near.py": "from ..far import thing\nfrom ...outside import x\n",  # no __init__.py
    "pack/far/__init__.py": "from .thing import *\n",
    "pack/far/thing.py": "raise SystemExit('imported')\n",
    "pack/unused.py": "",
    "outside.py": "",
}
USED = ["mine.py", "beside.py", "pack/__init__.py", "pack/also.py", "pack/deep/near.py", "pack/far/__init__.py",
        "pack/far/thing.py"]  # fmt: skip


@pytest.mark.parametrize("changed", USED)
def test_a_change_in_any_module_that_a_models_file_imports_makes_another_source(folder, changed):
    written(folder, TREE)
    before = module_source("mine:net")
    assert before == module_source("mine:net") != hashlib.sha256(TREE["mine.py"].encode()).hexdigest()
    written(folder, {changed: TREE[changed] + "# changed\n"})
    assert module_source("mine:net") != before


def test_modules_that_arent_imported_or_are_installed_are_no_part_of_a_source(folder, monkeypatch):
    written(folder, TREE | {"lib/site-packages/beside_that.py": "V = 1\n", "mine.py": "import beside_that, beside\n"})
    monkeypatch.syspath_prepend(folder / "lib/site-packages")
    before = module_source("mine:net")
    written(folder, {"pack/unused.py": "1\n", "pack/also.py": "2\n", "lib/site-packages/beside_that.py": "V = 2\n"})
    assert module_source("mine:net") == before


def test_a_source_is_the_same_wherever_its_folder_lies(folder, monkeypatch):
    written(folder / "a", TREE)
    written(folder / "b/c", TREE)
    found = set()
    for place in ("a", "b/c"):
        monkeypatch.chdir(folder / place)
        found.add(module_source("mine:net"))
    assert len(found) == 1


@pytest.mark.parametrize(
    "text", ["import torch, json\nfrom . import nothing\n", "import raybench.sweep.trial\n", "not python"]
)
def test_a_single_file_is_known_by_its_content_alone(folder, text):
    written(folder, {"alone.py": text, "box/alone.py": text, "box/__init__.py": ""})
    for name in ("alone:net", "box.alone:net"):
        assert module_source(name) == hashlib.sha256(text.encode()).hexdigest()
    origin = importlib.util.find_spec("torchvision").origin
    assert module_source("torchvision:net") == hashlib.sha256(Path(origin).read_bytes()).hexdigest()


def test_results_of_before_a_change_in_a_module_beside_are_not_taken_for_current(folder, capsys):
    (folder / "found_late.py").write_text(NET.format(helper="late_width"))
    (folder / "late_width.py").write_text("WIDTH = 12\n")
    command = [
        "prune",
        "--model",
        "found_late:net",
        "--speedup",
        "2",
        "--recipe",
        "r.yaml",
        "-o",
        "one",
        "--format=json",
    ]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)[0]
    changed = folder / "late_width.py"
    changed.write_text("WIDTH = 20\n")
    os.utime(changed, (changed.stat().st_atime, changed.stat().st_mtime + 2))  # Python takes seconds for versions
    del sys.modules["late_width"]  # as in another process
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)[0]["params_base"] > first["params_base"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def net(): pass\n", "has no function 'nett'. Did you mean 'net'?"),
        ("nett = 3\n", ""),
        ("from os import path as nett\n", ""),
        ("try:\n    def nett(): pass\nexcept ValueError: pass\n", ""),
        ("from os.path import *\n", ""),
        ("def __getattr__(name): return lambda: 1\n", ""),
        ("globals()['net' + 't'] = 1\n", ""),
        ("def net(:\n", ""),
    ],
)
def test_a_function_that_isnt_there_is_told_without_running_the_module(code, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bound_names.py").write_text(code)
    if not message:
        check_function("bound_names:nett")
        return
    with pytest.raises(SpecError) as found:
        check_function("bound_names:nett")
    assert message in str(found.value)
