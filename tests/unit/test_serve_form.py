"""The form of a new run: the sweep file it makes, what it may not name, its plan, a dry run and the way to the queue"""

from pathlib import Path
from typing import get_args

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from raybench.serve.form import CHOICES, PARTS, STRATEGIES, FormError, read_form
from raybench.serve.places import allowed_module, allowed_path
from raybench.serve.settings import Settings
from raybench.serve.uploads import Uploads
from raybench.sweep.axes import Part, StrategyName
from raybench.sweep.nodes import as_yaml, parse
from raybench.sweep.reader import load_sweep
from tests.unit.report_stores import store
from tests.unit.result_rows import row, trial
from tests.unit.serving import FORM

NET = """
from torch import nn

def build(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))
"""


@pytest.fixture
def allowed(tmp_path):
    """An allowed folder with a module, weights and data, and links that lead out of it."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        (folder / "data" / "train" / "a").mkdir(parents=True)
        (folder / "best.pt").write_bytes(b"weights")
        (folder / "minenet.py").write_text(NET)
    (outside / "outernet.py").write_text(NET)
    (inside / "link.pt").symlink_to(outside / "best.pt")
    (inside / "linked").symlink_to(outside)
    (inside / "json.py").write_text(NET)  # the standard library has one of that name
    return inside


def read(allowed=None, **changed):
    values = {name: value if isinstance(value, list) else [value] for name, value in {**FORM, **changed}.items()}
    roots = () if allowed is None else (allowed,)
    place = allowed.parent if allowed else Path("nowhere")
    return read_form(values, Settings("st", place, allowed=roots), Uploads(place / "uploads"))


def test_every_field_reaches_the_sweep(tmp_path, allowed):
    wanted = read(
        allowed, model="vit-nano", model_params="depth=2", method=["lamp", "taylor"],
        regularizer=["none", "group-norm"],
        strategy=["local", "global"], speedups="2, 4x 8", seeds="0 1,2", base_seeds="per-seed",
        schedule="iterative",
        keep="blocks.0.* head", only="blocks.*", round_to="4", prune=["mlp", "embed"], cpus="2", gpus="0.5",
        memory="2GiB", finetune_epochs="3", finetune_lr="1e-3", base_batch_size="32", weights="path",
        weights_path="best.pt", new_head="1", data_folder="data", dataset="imagefolder", dataset_params="image_size=64",
    )  # fmt: skip
    file = tmp_path / "sweep.yaml"
    file.write_text(wanted.yaml)
    sweep = parse(file).plain()
    assert sweep["methods"] == ["lamp", "lamp+group-norm", "taylor", "taylor+group-norm"]
    assert sweep["speedups"] == [2.0, 4.0, 8.0]
    assert sweep["seeds"] == [0, 1, 2]
    assert sweep["keep"] == ["blocks.0.*", "head"]
    assert sweep["resources"] == {"cpus": 2.0, "gpus": 0.5, "memory": "2GiB"}
    assert sweep["recipe"] == {"extends": "quick", "base": {"batch_size": 32}, "finetune": {"epochs": 3, "lr": 0.001}}
    assert sweep["models"] == [
        {"name": "vit-nano", "params": {"depth": 2}, "weights": str(allowed / "best.pt"), "new_head": True}
    ]
    assert sweep["data_roots"] == {"imagefolder": str(allowed / "data")}
    assert {"base_seeds", "schedule", "only", "round_to", "prune", "strategies"} <= set(sweep)


def test_trained_selections_and_token_reducers_stand_alone_beside_criteria(tmp_path):
    both = read(method=["lamp"], regularizer=["group-norm"], selection=["resrep", "tpp"], token="tome")
    assert both.methods == ("lamp+group-norm", "resrep", "tpp", "tome")
    alone = read(method=[], token=["tome", "cp-vit"], model="vit-nano")
    file = tmp_path / "sweep.yaml"
    file.write_text(alone.yaml)
    assert [one.name for one in load_sweep(file).methods] == ["tome", "cp-vit"]


def test_what_the_form_offers_is_what_a_sweep_may_say():
    assert set(STRATEGIES) == set(get_args(StrategyName))
    assert set(PARTS) == set(get_args(Part))
    assert (STRATEGIES[0], CHOICES["protocol"][0], CHOICES["schedule"][0]) == ("protected-global", "raybench", "auto")
    assert CHOICES["base_seeds"] == ("shared", "per-seed")


def test_the_smallest_form_is_a_sweep(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(read().yaml)
    sweep = load_sweep(file)
    assert (sweep.name, [one.name for one in sweep.models], sweep.speedups) == ("mine", ["test-convnet"], (2.0,))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"speedups": "two"}, "speedups: found 'two', expected a number"),
        ({"speedups": ""}, "speedups: found none"),
        ({"seeds": "1.5"}, "seeds: found '1.5', expected a whole number"),
        ({"method": []}, "criteria: found none"),
        ({"recipe": "/etc/passwd"}, "unknown recipe '/etc/passwd'"),
        ({"recipe": "../quick.yaml"}, "unknown recipe '../quick.yaml'. Did you mean 'quick'"),
        ({"model": "os:system"}, "unknown model 'os:system'"),
        ({"model": "--plugin=/tmp/x.py"}, "unknown model"),
        ({"model": "resnet-18"}, "Did you mean 'resnet18'"),
        ({"model": "own", "own_model": "os:system"}, "expected a module in a folder given with --allow"),
        ({"model": "own", "own_model": "/etc/passwd"}, "expected module:function or timm:NAME"),
        ({"model": "own", "own_model": "timm:hf-hub:a/b"}, "timm:hf-hub:a/b"),
        ({"model": "own", "own_model": "../x.py:net"}, "../x.py:net"),
        ({"weights": "/etc/passwd"}, "weights: found '/etc/passwd'"),
        ({"weights": "path", "weights_path": "/etc/passwd"}, "expected a file in a folder given with --allow"),
        ({"weights": "upload:../../x"}, "found no upload"),
        ({"dataset_params": "data=../../etc"}, "expected name=value"),
        ({"dataset_params": "data=/etc/passwd"}, "expected name=value"),
        ({"keep": "--plugin=/tmp/x.py"}, "expected the name of a layer"),
        ({"only": "-x"}, "expected the name of a layer"),
        ({"name": "x" * 3000}, "name: found 3000 characters"),
        (
            {"speedups": " ".join(f"{n / 10}" for n in range(11, 211)), "seeds": " ".join(map(str, range(200)))},
            "cells: found 40000, expected at most 20000 in one run",
        ),
        ({"prune": ["mlp", "--plugin=/tmp/x.py"]}, "prune: unknown part '--plugin=/tmp/x.py'"),
        ({"dataset": "--plugin=/tmp/x.py"}, "dataset: unknown dataset"),
        ({"dataset": "/etc"}, "dataset: unknown dataset '/etc'"),
        ({"selection": ["respre"]}, "selection: unknown trained selection 'respre'. Did you mean 'resrep'"),
        ({"token": ["../x.py:F"]}, "token: unknown token reducer '../x.py:F'"),
        ({"method": ["lamp", "../x.py:F"]}, "method: unknown criterion '../x.py:F'"),
        ({"regularizer": ["none", "-x"]}, "regularizer: unknown regularizer"),
        ({"strategy": "../x"}, "strategy: unknown strategy"),
        ({"protocol": "x"}, "protocol: unknown protocol"),
        ({"schedule": "/x"}, "schedule: unknown schedule"),
        ({"base_seeds": "x"}, "base seeds: unknown base seeds"),
        ({"data_folder": "/etc"}, "data folder: found '/etc'"),
    ],
)
def test_mistakes_name_their_field(changed, words):
    with pytest.raises(FormError, match=r".") as found:
        read(**changed)
    assert words in str(found.value)


@pytest.mark.parametrize(
    "text",
    ["link.pt", "linked/best.pt", "../outside/best.pt", "/etc/passwd", "data", "gone", "", "~/x", "a\0b", "x" * 5000],
)
def test_files_outside_the_allowed_folders_are_not_there(allowed, text):
    with pytest.raises(Exception, match="expected a file in") as found:
        allowed_path("weights path", text, [allowed])
    assert str(allowed.parent / "outside") not in str(found.value)


def test_files_inside_are_found_by_either_name(allowed):
    for text in ("best.pt", str(allowed / "best.pt"), "data/../best.pt"):
        assert allowed_path("weights path", text, [allowed]) == allowed / "best.pt"
    assert allowed_path("data folder", "data", [allowed], folder=True) == allowed / "data"


def yolo(folder, train):
    folder.mkdir()
    (folder / "data.yaml").write_text(f"names: [a]\ntrain: {train}\nval: {train}\n")


def coco(folder, name):
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_train2017.json").write_text(f'{{"images":[{{"file_name": "{name}"}}]}}')


LEADS_OUT = {  # dataset, what is written into `data` of the allowed folder
    "a folder of the YAML": ("yolo", lambda data, out: yolo(data, out / "images")),
    "a folder below the allowed one's parent": ("yolo", lambda data, out: yolo(data, "../../outside/images")),
    "a list of the YAML": ("yolo", lambda data, out: (yolo(data, "list.txt"), listed(data, out / "images" / "a.jpg"))),
    "a YAML that is a link": ("yolo", lambda data, out: (data.mkdir(), linked(data / "data.yaml", out / "data.yaml"))),
    "a linked folder": ("imagefolder", lambda data, out: (data.mkdir(), linked(data / "train", out / "images"))),
    "a linked image": ("imagefolder", lambda data, out: ((data / "train" / "a").mkdir(parents=True),
                                                          linked(data / "train" / "a" / "x.jpg", out / "a.jpg"))),
    "an absolute file name": ("coco", lambda data, out: coco(data, out / "images" / "a.jpg")),
    "a relative file name": ("coco", lambda data, out: coco(data, "../../../outside/images/a.jpg")),
    "an escaped file name": ("coco", lambda data, out: coco(data, r"\u002e\u002e/../../outside/images/a.jpg")),
}  # fmt: skip


def listed(folder, image):
    (folder / "list.txt").write_text(f"{image}\n")


def linked(link, target):
    link.symlink_to(target)


@pytest.mark.parametrize("kind", LEADS_OUT)
def test_data_that_lead_out_of_the_allowed_folders_are_refused(tmp_path, kind):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    (outside / "images").mkdir(parents=True)
    for file in (outside / "images" / "a.jpg", outside / "a.jpg", outside / "data.yaml"):
        file.write_bytes(b"x")
    dataset, write = LEADS_OUT[kind]
    write(inside / "data", outside)
    with pytest.raises(FormError, match="leads out of the folders given with --allow") as found:
        read(inside, dataset=dataset, data_folder="data")
    assert str(outside) not in str(found.value)


def test_data_may_lead_to_another_allowed_folder(tmp_path):
    inside = tmp_path / "inside"
    for name in ("data/images", "more/images"):
        (inside / name).mkdir(parents=True)
        (inside / name / "a.jpg").write_bytes(b"x")
    (inside / "data" / "data.yaml").write_text("names: [a]\ntrain: [images, ../more/images]\nval: linked\n")
    linked(inside / "data" / "linked", inside / "more" / "images")
    linked(inside / "data" / "round", inside)
    assert "data_roots" in read(inside, dataset="yolo", data_folder="data").yaml
    coco(inside / "coco", "../../more/images/a.jpg")
    assert "data_roots" in read(inside, dataset="coco", data_folder="coco").yaml


@pytest.mark.parametrize(
    "model", ["json:build", "outernet:build", "linked.outernet:build", "os:system", "torch.hub:load"]
)
def test_modules_outside_the_allowed_folders_are_refused(allowed, model):
    with pytest.raises(Exception, match="expected a module in"):
        allowed_module(model, [allowed])


def test_a_module_inside_is_imported_from_there(allowed):
    assert allowed_module("minenet:build", [allowed]) == allowed
    assert read(allowed, model="own", own_model="minenet:build").folder == allowed


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x", "keep": ["1e-4", "no", "null", "true", "0x1f", "12", "2024-01-01", "a: b", "{x}", "", "é\n"]},
        {"a": {"b": [1.0, 1e-7, True, None]}, "c": [{"d": "e: #f"}], "g": "- h"},
    ],
)
def test_what_is_written_as_yaml_is_read_as_the_same(tmp_path, fields):
    (tmp_path / "x.yaml").write_text(as_yaml(fields))
    assert parse(tmp_path / "x.yaml").plain() == fields


def test_a_preview_shows_the_file_the_plan_and_the_cost(tmp_path, serving):
    store(tmp_path / "st", [row(trial(model="test-convnet"))])
    browser = serving()
    answer = browser.post("/preview", data={**FORM, "method": ["magnitude-l2", "lamp"], "speedups": "2, 4"})
    assert answer.status_code == 200
    for words in ("models:", "test-convnet", "4</b><span>cells to run", "Cost", "Sweep file", "lamp"):
        assert words in answer.text
    assert not list((tmp_path / "work" / "runs").iterdir())


def test_mistakes_that_only_the_plan_finds_name_their_line(serving):
    answer = serving().post("/preview", data={**FORM, "finetune_epochs": "-1", "finetune_lr": "-2"})
    assert answer.status_code == 422
    assert "2 things to mend" in answer.text
    assert "line " in answer.text
    assert "raybench-plan" not in answer.text  # the folder of the moment


def test_markup_in_a_field_stays_text(serving):
    answer = serving().post("/preview", data={**FORM, "name": "<img src=x onerror=alert(1)>"})
    assert answer.status_code == 422
    assert "<img" not in answer.text


def test_a_dry_run_lists_what_can_be_pruned(serving):
    answer = serving().post("/dryrun", data={**FORM, "keep": "conv1"})
    assert answer.status_code == 200, answer.text
    assert "Most speed-up" in answer.text
    assert "its width" in answer.text


def test_a_form_is_queued_once_its_plan_has_cells(serving):
    browser = serving("import time; time.sleep(60)")
    answer = browser.post("/queue", data=FORM)
    target = answer.headers["hx-redirect"]
    assert "test-convnet on digits" in browser.get(f"/{target}").text
    assert "mine" in browser.get("/runs.html").text
    refused = browser.post("/queue", data={**FORM, "method": "bn-scale", "model": "test-vit"})
    assert "nothing to run" in refused.text
