"""Checkpoints as they lie around: any wrapper, prefix and ending is read; what can't be is refused in one line."""

import argparse
import collections
import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.models.build import build_model
from raybench.models.head import Head
from raybench.models.weights import load_weights

TINY = DataFacts("tiny", "classification", 4, 1, 8, (0.5,), (0.5,), "")
FIVE = DataFacts("five", "classification", 5, 1, 8, (0.5,), (0.5,), "")


def net(seed=0, data=TINY):
    torch.manual_seed(seed)
    return build_model("test-convnet", data)


def state(seed=0):
    return dict(net(seed).state_dict())


def under(prefix, of=None):
    return {prefix + name: value for name, value in (of or state()).items()}


def one_by_one(change):
    return {change(name): value for name, value in state().items()}


def compiled_inside(name):
    first, _, rest = name.partition(".")
    return f"{first}._orig_mod.{rest}"


def head_apart():
    return {("head.fc." if name.startswith("linear") else "backbone.") + name: v for name, v in state().items()}


def mmpretrain():
    return {("head." if name.startswith("linear") else "backbone.") + name: v for name, v in state().items()}


optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}

FITTING = {
    "compiled, then parallel": lambda: under("_orig_mod.module."),
    "parallel, then compiled": lambda: under("module._orig_mod."),
    "a wrapper, then parallel": lambda: under("model.module."),
    "parallel twice": lambda: under("module.module."),
    "net": lambda: under("net."),
    "backbone": lambda: under("backbone."),
    "five of them": lambda: under("model.module.backbone._orig_mod.net."),
    "a submodule compiled": lambda: one_by_one(compiled_inside),
    "fsdp": lambda: under("_fsdp_wrapped_module."),
    "ema": lambda: {"ema": state()},
    "ema_state_dict": lambda: {"ema_state_dict": under("module.")},
    "model_state": lambda: {"epoch": 3, "model_state": state()},
    "params": lambda: {"params": state()},
    "weights": lambda: {"weights": state()},
    "network": lambda: {"network": state(), "optimizer": optimizer},
    "state": lambda: {"state": {"model": under("module.")}},
    "a wrapper of nobody": lambda: {"my_little_net": [{"inner": state()}]},
    "lightning": lambda: {
        "state_dict": under("model.") | {"loss.weight": torch.ones(4), "loss.centres.weight": torch.ones(2, 2)},
        "pytorch-lightning_version": "2.0", "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": 1.0}},
        "hyper_parameters": {"lr": 0.1}, "optimizer_states": [optimizer],
    },
    "torchvision's training": lambda: {
        "model": state(), "model_ema": {"n_averaged": torch.tensor(7)} | under("module.", state(3)),
        "optimizer": optimizer, "args": argparse.Namespace(lr=0.1, output_dir=Path("here")), "epoch": 9,
    },
    "swa": lambda: {"n_averaged": torch.tensor(7)} | under("module."),
    "timm's training": lambda: {
        "state_dict": state(), "state_dict_ema": state(3), "args": argparse.Namespace(), "arch": "x", "version": 2,
        "metric": np.float64(71.0),
    },
    "thop's counters": lambda: state() | {
        "total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1, dtype=torch.float64),
    },
    "mmpretrain": lambda: {"meta": {"epoch": 3}, "state_dict": mmpretrain(), "param_schedulers": []},
    "a head of two names": lambda: {"state_dict": head_apart()},
    "moco": lambda: {
        "state_dict": under("module.encoder_q.") | under("module.encoder_k.", state(3))
        | {"module.queue": torch.ones(2, 9), "module.queue_ptr": torch.zeros(1)},
    },
    "dino": lambda: {"student": under("module.", state(3)), "teacher": state(), "dino_loss": {"center": torch.ones(2)}},
    "byol": lambda: under("online_encoder.net.") | under("target_encoder.net.", state(3)),
    "deepspeed": lambda: {"module": state(), "buffer_names": [], "optimizer": None, "ds_version": "0.1"},
    "ddp, compiled, averaged": lambda: {"state_dict": under("module._orig_mod.module.")},
    "averaged beside": lambda: {"params": state(), "params_ema": state(3)},
    "parameters, not tensors": lambda: {name: nn.Parameter(v, False) for name, v in state().items()},
    "arguments and metrics": lambda: {
        "model": state(), "history": collections.defaultdict(list, a=[np.arange(3)]),
        "last": collections.deque([1.0, 2.0], 5), "best": np.float32(1),
    },
    "the same twice": lambda: {"a": state(), "b": state()},
    "in double precision": lambda: {name: v.double() for name, v in state().items()},
}  # fmt: skip


def saved(tmp_path, content, name="x.pth", **how):
    path = tmp_path / name
    torch.save(content, path, **how)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FITTING)
def test_weights_are_found_under_any_wrapper_and_prefix(form, tmp_path):
    model = net(1)
    load_weights(model, saved(tmp_path, FITTING[form]()))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state()[name].to(value)), name


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("lightning", r"left out tensors that this network doesn't have: loss \(2\)$"),
        ("torchvision's training", r"took the weights in model, not those in model_ema$"),
        ("dino", r"took the weights in teacher, not those in student$"),
        ("moco", r"took the weights in state_dict\.encoder_q, not those in state_dict\.encoder_k$"),
        ("thop's counters", None),
        ("the same twice", None),
    ],
)
def test_what_was_not_taken_is_told_in_one_line(form, message, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_weights(net(1), saved(tmp_path, FITTING[form]()))
    said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    assert not said if message is None else any(re.search(message, one) for one in said), said


def test_a_network_with_a_prefix_of_its_own_takes_a_file_without_it(tmp_path):
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    outer = nn.Module()
    outer.add_module("net", nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    load_weights(outer, saved(tmp_path, under("module.", dict(inner.state_dict()))))
    assert torch.equal(outer.net[0].weight, inner[0].weight)


def test_two_sets_that_fit_and_differ_are_not_guessed_between(tmp_path):
    path = saved(tmp_path, {"left": state(0), "right": state(1)})
    with pytest.raises(UserError, match="holds 2 sets of weights that fit this network, left, right, and nothing"):
        load_weights(net(), path)


@pytest.mark.parametrize("name", ["x.pth", "x.bin", "x.SAFETENSORS", "x", "x.ckpt", "x.onnx"])
@pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch"])
def test_the_ending_of_a_file_does_not_count(kind, name, tmp_path):
    path = tmp_path / name
    if kind == "safetensors":
        path.write_bytes(safetensors_bytes(state()))
    else:
        torch.save(state(), path, _use_new_zipfile_serialization=kind == "torch")
    model = net(1)
    load_weights(model, path)
    assert torch.equal(model.conv1.weight, net().conv1.weight)


def itself():
    found = state()
    found["conv1.weight"] = found
    return found


def script(path):
    torch.jit.save(torch.jit.trace(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8)), str(path))


def changed(name, value):
    return lambda path: torch.save(state() | {name: value}, path)


def zipped(**members):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name, content)

    return write


def saved_by_numpy(path):
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value.numpy() for name, value in state().items()})
    path.write_bytes(buffer.getvalue())


def folder(path):
    path.mkdir()
    (path / "model.safetensors").touch()


def deep(path):
    found = state()
    for _ in range(300):
        found = {"a": found}
    torch.save(found, path)


def old_tar(path):
    import tarfile

    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("storages"))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
W = "conv1.weight"
REFUSED = {  # what the file holds -> what the message says
    "nothing": (lambda p: p.write_bytes(b""), r"is empty \(0 bytes\): download or copy it again"),
    "html": (lambda p: p.write_bytes(b"\n<!DOCTYPE html><html>Sign in"), r"is a web page .*fetch the file itself"),
    "xml": (lambda p: p.write_bytes(b"<?xml version='1.0'?><Error>AccessDenied</Error>"), "is a web page"),
    "git-lfs": (lambda p: p.write_bytes(LFS), "pointer of git-lfs, not the file itself: run `git lfs pull`"),
    "a link": (lambda p: p.write_text("weights: https://host.org/a.pth\n"), r"text with the link https://host\.org/a\."),
    "a letter": (lambda p: p.write_text("t"), "is text that begins with 't', not weights"),
    "json": (lambda p: p.write_text('{"a": {}}'), r"is text \(JSON\), not weights"),
    "shards": (lambda p: p.write_text('{"weight_map": {"a": "b-1-of-2.bin", "c": "b-2-of-2.bin"}}'),
               r"the index of weights in several files \(b-1-of-2.bin, b-2-of-2.bin, \.\.\.\), not weights"),
    "utf-16": (lambda p: p.write_text("see the readme", "utf-16"), "is text that begins with"),
    "sparse": (changed(W, torch.ones(8, 1, 3, 3).to_sparse()), r"conv1\.weight: sparse.*tensor\.to_dense\(\)"),
    "meta": (changed(W, torch.ones(8, 1, 3, 3, device="meta")), r"conv1\.weight: meta, a shape without values"),
    "quantised": (
        changed(W, torch.quantize_per_tensor(torch.ones(8, 1, 3, 3), 0.1, 0, torch.qint8)),
        r"conv1\.weight: quantised \(qint8\)",
    ),
    "integers": (changed(W, torch.ones(8, 1, 3, 3, dtype=torch.int8)), r"conv1\.weight: int8 instead of float32"),
    "itself": (lambda p: torch.save(itself(), p), r"1 missing \(conv1\.weight\)"),
    "300 levels": (deep, "too many or too deeply nested containers"),
    "torchscript": (script, r"is a TorchScript program.*torch\.jit\.load and save its state_dict\(\)"),
    "a network": (lambda p: torch.save(net(), p), r"a whole network was saved, not its weights.*save model\."),
    "an old network": (
        lambda p: torch.save(nn.Conv2d(1, 2, 3), p, _use_new_zipfile_serialization=False),
        r"it would run torch\.nn\.modules\.conv\.Conv2d",
    ),
    "a tensor": (lambda p: torch.save(torch.ones(3), p), "found Tensor; expected a state dict"),
    "numpy's pickle": (lambda p: p.write_bytes(pickle.dumps({"a": np.ones(3)})), "not a readable file"),
    "npz": (saved_by_numpy, "is an archive of NumPy arrays"),
    "npy": (lambda p: np.lib.format.write_array(p.open("wb"), np.ones(3)), "is an array of NumPy"),
    "keras": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file, as Keras writes it"),
    "keras 3": (zipped(**{"config.json": "{}", "model.weights.h5": "x"}), "is a model of Keras"),
    "onnx": (lambda p: p.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:"), "is an ONNX model"),
    "a zip of it": (zipped(**{"a/x.pth": "x"}), r"zip archive, but not of torch\.save: unpack it and give a/x\.pth"),
    "a bomb": (zipped(**{"x/data.pkl": bytes(50 << 20)}), "that unpacks to 52,428,800"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(20)), "is a gzip archive: unpack it"),
    "tar": (old_tar, r"is a tar archive, perhaps of torch before 0\.1\.10"),
    "a folder": (folder, r"is a folder; expected a file of weights. It holds model\.safetensors"),
    "a dead link": (lambda p: p.symlink_to("nowhere.pth"), r"is a link to nowhere\.pth, which isn't there"),
    "a pipe": (lambda p: __import__("os").mkfifo(p), "is not a regular file"),
    "zeros": (lambda p: p.write_bytes(bytes(5000)), r"not a readable file of weights.*: no archive or pickle\)"),
    "half of a safetensors": (
        lambda p: p.write_bytes(safetensors_bytes(state())[:300]),
        "not a readable file of safetensors .*download or copy it again",
    ),
    "names of two lines": (lambda p: torch.save(state() | {"a\nb" * 100: torch.ones(1)}, p), r"1 unexpected"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_state_dict_is_refused_in_one_line_with_what_to_do(what, tmp_path):
    write, expected = REFUSED[what]
    path = tmp_path / "x.pth"
    write(path)
    model = net(1)
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert str(path) in message
    assert re.search(expected, message), message
    assert "\n" not in message
    assert len(message) < 700
    assert all(torch.equal(value, state(1)[name]) for name, value in model.state_dict().items())


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    path = saved(tmp_path, state())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read any file
    with pytest.raises(UserError, match=r"x\.pth: can't be read: no permission"):
        load_weights(net(), path)


def head(data):
    return Head("test-convnet", data, {})


def test_the_classifier_is_what_depends_on_the_number_of_classes():
    assert head(TINY).tensors == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("known", [True, False])
def test_weights_of_other_classes_name_the_layer_the_shapes_and_the_option(known, tmp_path):
    path = saved(tmp_path, dict(net(0, FIVE).state_dict()))
    expected = (
        r"for 5 classes; the dataset has 4: linear\.weight \(5, 16\) instead of \(4, 16\).*--new-head .*new_head: true"
    )
    with pytest.raises(UserError, match=expected):
        load_weights(net(1), path, head(TINY) if known else None)


def without_head():
    return {name: value for name, value in state().items() if not name.startswith("linear")}


@pytest.mark.parametrize(
    "content",
    [
        lambda: dict(net(0, FIVE).state_dict()),
        without_head,
        lambda: {"state_dict": under("module.encoder_q.", without_head() | {"linear.0.weight": torch.ones(3, 16)})},
        state,
    ],
    ids=["other classes", "no classifier", "a projection in its place", "the same classes"],
)
def test_a_new_head_takes_all_other_layers_and_is_told(content, tmp_path):
    model, path = net(1), saved(tmp_path, content())
    with pytest.warns(UserWarning, match="new head: linear.* starts untrained and is trained by the recipe's base"):
        report = load_weights(model, path, head(TINY), new_head=True)
    assert report.new == ("linear.bias", "linear.weight")
    for name, value in model.state_dict().items():
        assert torch.equal(value, state(1 if name.startswith("linear") else 0)[name]), name


def test_a_new_head_is_no_excuse_for_another_architecture(tmp_path):
    rest = {name: value for name, value in state().items() if name != "conv2.weight"}
    with pytest.raises(UserError, match=r"1 missing \(conv2\.weight\)"):
        load_weights(net(1), saved(tmp_path, rest), head(TINY), new_head=True)


def test_code_beside_the_weights_is_never_run(tmp_path):
    """Neither the harmless classes that become shells nor any other is called."""

    class Trap:
        def __reduce__(self):
            return argparse.Namespace, (), {"a": 1}, iter([Path(tmp_path / "trap")])

    class Worse:
        def __reduce__(self):
            return Path.touch, (tmp_path / "trap",)

    with pytest.raises(UserError, match=r"x\.pth: "):
        load_weights(net(1), saved(tmp_path, {"model": state(), "args": Trap()}))
    with pytest.raises(UserError, match="refused to load: it would run"):
        load_weights(net(1), saved(tmp_path, {"model": state(), "args": Worse()}))
    assert not (tmp_path / "trap").exists()
