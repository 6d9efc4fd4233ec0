"""Builders and forwards of others: whatever they raise, return or print is told in one sentence."""

from __future__ import annotations

import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import raybench
from raybench.cli.main import main, plain_warnings
from raybench.datasets.facts import DataFacts
from raybench.errors import UserError
from raybench.groups import proof
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.models.foreign import called

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
FACTS = DataFacts("digits", "classification", 10, 1, 8, (0.5,), (0.5,), "")
IMAGE = torch.zeros(2, 1, 8, 8)


def small(classes: int = 10, channels: int = 1) -> nn.Sequential:
    body = (nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(8, classes))


def raising(error: BaseException) -> Callable[[], nn.Module]:
    def net() -> nn.Module:
        raise error

    return net


def passes_on(**kwargs: Any) -> nn.Module:
    """As torchvision's: arguments go to a class that knows some of them."""

    def knows(num_classes: int, in_channels: int) -> nn.Module:
        return small(num_classes, in_channels)

    return knows(**kwargs)


def prints(num_classes: int) -> nn.Module:
    print("building")
    return small(num_classes)


def downloads(num_classes: int, weights_backbone: str | None = "IMAGENET1K_V1") -> nn.Module:
    assert weights_backbone is None, "it would download"
    return small(num_classes)


BUILDERS = {
    "tuple": (lambda: (small(), 3), r"returned tuple; expected a torch\.nn\.Module; return the network alone"),
    "list": (lambda: [small()], "returned list; .*; return the network alone"),
    "dict": (lambda: {"net": small()}, "returned dict; .*; return the network alone"),
    "none": (lambda: None, "returned None; expected a"),
    "class": (lambda: nn.Flatten, r"returned the class Flatten; .*return an object of it: Flatten\(\)"),
    "state": (lambda: small().state_dict(), "returned OrderedDict; expected a"),
    "exits": (
        raising(SystemExit(3)),
        r"can't be built: SystemExit: 3 \(.*test_foreign\.py:\d+\)\. It was called with no",
    ),
    "key": (raising(KeyError("weights")), "can't be built: KeyError: 'weights'"),
    "memory": (raising(MemoryError()), "can't be built: MemoryError"),
    "file": (raising(FileNotFoundError(2, "No such file", "x.pt")), "can't be built: FileNotFoundError: .*x.pt"),
    "value": (raising(ValueError("depth\nmust be odd.")), r"can't be built: depth must be odd \("),
    "needs": (lambda depth: small(), "missing a required argument: 'depth'; it is called with those of num_classes"),
    "lazy": (lambda: nn.LazyLinear(10), "weight has no shape yet"),
    "meta": (lambda: small().to("meta"), r"0\.weight has a shape and no values"),
    "script": (lambda: torch.jit.script(small()), "is TorchScript, whose layers can't be changed"),
    "network": (small(), "is a network .*expected a function or class that builds one"),
}


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("foreign_nets")
    monkeypatch.setitem(sys.modules, "foreign_nets", module)
    return module


@pytest.mark.parametrize(("make", "message"), BUILDERS.values(), ids=BUILDERS)
def test_what_a_builder_raises_or_returns_is_told(theirs: types.ModuleType, make: Any, message: str) -> None:
    theirs.net = make
    with pytest.raises(UserError, match=rf"(?s)^(model 'foreign_nets:net'|\w+: ).*{message}"):
        build_model("foreign_nets:net", FACTS)


@pytest.mark.parametrize("make", [passes_on, prints, downloads, lambda *given: small()])
def test_builders_get_what_they_take_and_print_nothing(theirs, make, capsys) -> None:
    theirs.net = make
    assert build_model("foreign_nets:net", FACTS)(IMAGE).shape == (2, 10)
    assert not capsys.readouterr().out


def test_what_a_module_raises_while_it_is_imported_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text, error in (("bad_a", "1 +", "SyntaxError"), ("bad_b", "x", "NameError"), ("bad_c", "exit(1)", "1")):
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(UserError, match=f"model {name}:net: importing '{name}' failed: .*{error}"):
            build_model(f"{name}:net", FACTS)


class Forward(nn.Module):
    """Runs a function after a small network."""

    def __init__(self, then: Callable[[Tensor], Any], channels: int = 1) -> None:
        super().__init__()
        self.net, self.then = small(channels=channels), then

    def forward(self, x: Tensor) -> Any:
        return self.then(self.net(x))


class Two(Forward):
    def forward(self, x: Tensor, other: Tensor) -> Any:  # type: ignore[override]  # that is the mistake
        return self.net(x) + other


def stops(x: Tensor) -> Tensor:
    raise SystemExit(1)


FORWARDS = {
    "key": (Forward(lambda x: {}["scores"]), r"Forward doesn't run on images of 8x8: KeyError: 'scores' \(.*py:\d+\)"),
    "attribute": (Forward(lambda x: x.score), "doesn't run on images of 8x8: AttributeError"),
    "division": (Forward(lambda x: x / (1 // (len(x) - 2))), "8x8: ZeroDivisionError"),
    "exit": (Forward(stops), "8x8: SystemExit: 1"),
    "not-implemented": (nn.ModuleList([small()]), "ModuleList doesn't run on images of 8x8: NotImplementedError"),
    "two": (Two(lambda x: x), "Two: its forward takes x and other, and is called with one batch of images alone"),
    "channels": (Forward(lambda x: x, 3), "8x8 with 1 channel: .*It runs on 8x8 with 3 channels; give such images"),
    "small": (
        nn.Sequential(nn.Conv2d(1, 8, 9), nn.Conv2d(8, 8, 9), nn.AdaptiveAvgPool2d(1)),
        "8x8: .*It runs on 32x32; give larger images",
    ),
    "fixed": (nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 30 * 30, 10)), "8x8: .*It runs on 32x32"),
    "script": (nn.Sequential(torch.jit.trace(small(), IMAGE)), "Sequential: its 0 is TorchScript"),
}


@pytest.mark.parametrize(("net", "message"), FORWARDS.values(), ids=FORWARDS)
def test_what_a_forward_raises_is_told(net: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        raybench.inspect(net, IMAGE)


def test_images_smaller_than_a_patch_are_told_as_that() -> None:
    with pytest.raises(UserError, match=r"mixer_s32_224 .*8 pixels is not a whole number of patches of 32 pixels"):
        build_model("timm:mixer_s32_224", FACTS)


def test_json_is_alone_on_standard_output_whatever_a_network_prints(theirs, capsys) -> None:
    def said(x: Tensor) -> Tensor:
        print("forward")
        return x

    theirs.net = lambda num_classes: Forward(said)
    assert main(["inspect", "foreign_nets:net", "--format", "json"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("{")
    assert "forward" in output.err


def test_the_same_warning_is_printed_once_for_a_command(capsys) -> None:
    with plain_warnings():
        for text in ("net: rnn keeps its width", "net: rnn keeps its width", "another"):
            with warnings.catch_warnings():  # each stage has filters of its own, and traces the same network
                warnings.simplefilter("always")
                warnings.warn_explicit(text, UserWarning, str(raybench.__file__), 1)
    assert capsys.readouterr().err == "warning: net: rnn keeps its width\nwarning: another\n"


@pytest.mark.parametrize("message", ["[enforce fail] DefaultCPUAllocator: can't allocate memory", "CUDA out of memory"])
def test_a_lack_of_memory_isnt_taken_for_a_wrong_group(monkeypatch, message) -> None:
    short = torch.OutOfMemoryError(message) if "CUDA" in message else RuntimeError(message)
    monkeypatch.setattr(proof, "_silenced", lambda *given: raising(short)())
    with pytest.raises(RuntimeError, match=r"memory"):
        trace(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10)), IMAGE)


def test_variables_that_change_numbers_are_put_back(monkeypatch):
    monkeypatch.setenv("CUBLAS_LOGINFO", "kept")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")

    def net():
        os.environ.update(CUBLAS_WORKSPACE_CONFIG=":4096:8", ATEN_CPU_CAPABILITY="default", MY_OWN="1")
        return nn.Linear(2, 2)

    monkeypatch.delenv("MY_OWN", raising=False)
    called("mine:net", net, {}, {})
    assert os.environ["ATEN_CPU_CAPABILITY"] == "avx2"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert os.environ.pop("MY_OWN") == "1"
