"""Every registered method holds what every method must; so does a stranger's, in one file."""

from dataclasses import dataclass

import pytest
import torch

from raybench import registry
from raybench.cli.main import main
from raybench.methods.protocols import Importance, Regularizer
from raybench.registry import Registry
from raybench.testing.conformance import check_file, check_importance, check_regularizer
from raybench.testing.selections import check_selection
from tests import forked

CRITERIA = sorted(registry.importance.entries())
REGULARIZERS = sorted(registry.regularizer.entries())
SELECTIONS = sorted(registry.selection.entries())

PLUGIN = '''
"""Sum of activations, scored where a convolution reads them."""
from dataclasses import dataclass
from raybench.methods.protocols import Importance
from raybench.registry import importance

@importance("mean-activation")
@dataclass(frozen=True)
class MeanActivation(Importance):
    """Mean absolute input of the layers that read a channel."""
    needs = "activations"

    def observe(self, layer, inputs, output, state):
        if layer.side != "in" or layer.kind != "conv":
            return None
        batch = inputs.abs().mean((2, 3)).sum(0)
        return batch if state is None else state + batch

    def layer_scores(self, layer):
        return layer.state
'''


@pytest.fixture
def registries(monkeypatch):
    """Registries that forget the test's plug-ins."""
    for name in ("importance", "selection", "regularizer"):
        old = getattr(registry, name)
        monkeypatch.setattr(registry, name, Registry(old.kind, old.package))


@pytest.mark.parametrize("name", CRITERIA)
def test_criterion(name):
    check_importance(registry.importance.load(name)())


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizer(name):
    check_regularizer(registry.regularizer.load(name)())


@pytest.mark.parametrize("name", SELECTIONS)
def test_selection(name):
    check_selection(registry.selection.load(name)())


@pytest.mark.parametrize("name", SELECTIONS)
def test_facts_of_a_selection(name):
    facts = registry.selection.entry(name).facts
    assert facts["paper"]
    assert facts["needs"] == "training"


def test_all_methods_are_there():
    data = {"thinet", "cp", "hrank", "chip", "taylor", "obd-c", "obd-hessian"}
    weights = {"magnitude-l1", "magnitude-l2", "lamp", "fpgm", "bn-scale", "lookahead"}
    assert set(CRITERIA) == {"random", "uniform", "small"} | weights | data
    assert set(SELECTIONS) == {"greg-1", "nppm", "resrep", "tpp"}
    assert set(REGULARIZERS) == {"group-lasso", "bn-group-lasso", "group-norm", "growing-reg", "bn-scale"}


@pytest.mark.parametrize("name", [*CRITERIA])
def test_facts_name_paper_and_needs(name):
    facts = registry.importance.entry(name).facts
    assert facts["paper"]
    assert facts["needs"] in ("nothing", "weights", "gradients", "sample-gradients", "activations")


@pytest.mark.parametrize("flags", [(), ("--regularizer",), ("--selection",), ("--token",)])
def test_a_new_method_is_short_and_conforms(flags, tmp_path, registries, capsys):
    assert main(["new-method", "my-own", "--folder", str(tmp_path), *flags]) == 0
    path = tmp_path / "my_own.py"
    assert str(path) in capsys.readouterr().out
    assert len(path.read_text().splitlines()) <= (48 if flags == ("--token",) else 32)
    kind = flags[0].removeprefix("--") if flags else "importance"
    assert check_file(path) == [f"{getattr(registry, kind).noun} my-own"]
    assert main(["new-method", "my-own", "--folder", str(tmp_path), *flags]) == 2


def test_new_method_refuses_names_that_are_taken_or_odd(tmp_path, capsys):
    assert main(["new-method", "fpgm", "--folder", str(tmp_path)]) == 2
    assert "already" in capsys.readouterr().err
    assert main(["new-method", "My Method", "--folder", str(tmp_path)]) == 2
    assert "my-criterion" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_strangers_criterion_in_one_short_file(tmp_path, registries):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    assert len(PLUGIN.strip().splitlines()) < 30
    assert check_file(path) == ["criterion mean-activation"]
    assert registry.importance.entry("mean-activation").facts["needs"] == "activations"


def test_the_check_runs_from_the_command_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    done = forked.run("import runpy; runpy.run_module('raybench.testing.conformance', run_name='__main__')", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "criterion mean-activation: conforms\n"


@dataclass(frozen=True)
class Negative(Importance):
    def layer_scores(self, layer):
        return -layer.weight.flatten(1).sum(1)


@dataclass(frozen=True)
class Misshapen(Importance):
    def layer_scores(self, layer):
        return layer.weight.abs()


@dataclass(frozen=True)
class ByPosition(Importance):
    def layer_scores(self, layer):
        return torch.arange(len(layer.weight)).float()


@dataclass(frozen=True)
class Unsteady(Importance):
    def layer_scores(self, layer):
        return torch.rand(len(layer.weight))


@dataclass(frozen=True)
class Meddling(Importance):
    def layer_scores(self, layer):
        layer.weight.mul_(2)
        return layer.weight.flatten(1).square().sum(1)


@dataclass(frozen=True)
class Stretching(Importance):
    points: int = 10
    reconstruct: bool = True

    reconstructs = True

    def layer_scores(self, layer):
        return layer.weight.flatten(1).square().sum(1)

    def refit(self, reading):
        return reading.weight.mul_(2)


@dataclass(frozen=True)
class Unswitched(Stretching):
    reconstruct: bool | None = None


@dataclass(frozen=True)
class Pointless(Importance):
    reconstructs = True

    def layer_scores(self, layer):
        return layer.weight.flatten(1).square().sum(1)


@dataclass(frozen=True)
class Silent(Importance):
    def layer_scores(self, layer):
        return None


@pytest.mark.parametrize(
    ("criterion", "complaint"),
    [
        (Negative(), "negative"),
        (Misshapen(), "shape"),
        (ByPosition(), "another order"),
        (Unsteady(), "different scores|another order"),
        (Meddling(), "changed the model"),
        (Stretching(), "refit changed the weight"),
        (Unswitched(), "parameter `reconstruct`"),
        (Pointless(), "parameter `points`"),
        (Silent(), "no layer"),
    ],
)
def test_the_check_notices(criterion, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_importance(criterion)


class Idle(Regularizer):
    def bind(self, model, groups):
        pass

    def add_gradients(self):
        pass


def test_the_check_notices_a_regularizer_that_does_nothing():
    with pytest.raises(AssertionError, match="no gradient"):
        check_regularizer(Idle())
