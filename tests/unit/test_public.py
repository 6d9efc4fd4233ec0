"""What `import raybench` offers: every public name works, and the ten-line example does what it says."""

import subprocess
import sys
from importlib.resources import files

import pytest
import torch
from torch import nn

import raybench
from raybench.errors import NotSupported, UserError
from raybench.groups.cost import count_macs
from raybench.methods.protocols import ElementwiseImportance
from tests.pruning_nets import small_resnet
from tests.unit.sweeps import written

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 10


@pytest.mark.parametrize("name", raybench.__all__)
def test_every_public_name_is_there_with_a_docstring(name):
    found = getattr(raybench, name)
    assert found.__doc__
    assert name in dir(raybench)


def test_a_name_that_is_not_there_lists_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute .runn.; it has .*run_sweep"):
        _ = raybench.runn


def test_importing_it_imports_nothing_heavy():
    code = "import sys, raybench; print(sorted({'torch', 'ray', 'pyarrow', 'pandas', 'pydantic'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_module_is_the_command():
    said = subprocess.check_output([sys.executable, "-m", "raybench", "--version"], text=True)
    assert said.startswith("raybench 0.")


def test_it_is_typed():
    assert files("raybench").joinpath("py.typed").is_file()


@pytest.mark.parametrize("criterion", ["magnitude-l2", "lamp", "taylor", "cp", "random"])
def test_a_network_is_pruned_in_memory(criterion):
    model = small_resnet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = raybench.prune(model, IMAGES[:1], 2, criterion, calibration=(IMAGES, LABELS))
    assert pruned.speedup == pytest.approx(2, rel=0.005)
    assert pruned.reason is None
    assert count_macs(pruned.model, IMAGES[:1]) == pruned.macs == round(pruned.macs_base / pruned.speedup)
    assert sum(p.numel() for p in pruned.model.parameters()) == pruned.params < pruned.params_base
    assert pruned.model(IMAGES).shape == (8, 10)
    assert pruned.model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_criterion_of_ones_own_is_an_object():
    class Capped(ElementwiseImportance):
        """Sum of min(|w|, .1)."""

        def saliency(self, layer):
            return layer.weight.abs().clamp(max=0.1)

    pruned = raybench.prune(small_resnet(), IMAGES[:1], 2, Capped())
    assert pruned.speedup == pytest.approx(2, rel=0.005)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"criterion": "magnitud-l2"}, "Did you mean 'magnitude-l2'"),
        ({"criterion": "taylor"}, "Taylor needs gradients: give calibration="),
        (
            {"criterion": "cp", "params": {"pionts": 3}, "calibration": (IMAGES, LABELS)},
            "no parameter 'pionts'. Known:",
        ),
        ({"criterion": "taylor", "calibration": (IMAGES, LABELS[:3])}, "found 8 images and 3 labels"),
        ({"strategy": "globl"}, "Did you mean 'global'"),
        ({"keep": ["nowhere"]}, "has no module 'nowhere'"),
        ({"parts": ["head"]}, "unknown part 'head'. Did you mean 'heads'"),
    ],
)
def test_mistakes_are_named(how, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.").replace("(", r"\(")):
        raybench.prune(small_resnet(), IMAGES[:1], 2, **how)


def test_a_speed_up_of_one_is_no_speed_up():
    with pytest.raises(UserError, match="a speed-up must be above 1; found 1"):
        raybench.prune(small_resnet(), IMAGES[:1], 1)


def test_a_network_with_nothing_to_prune_is_refused():
    with pytest.raises(NotSupported, match="no group of channels"):
        raybench.prune(nn.Linear(4, 2), torch.zeros(1, 4), 2)


def test_a_sweep_is_planned_run_and_read(tmp_path):
    file = written(
        tmp_path, "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: random\nspeedups: 2\nrecipe: small\n"
    )
    sweep = raybench.load_sweep(file)
    planned = raybench.plan_sweep(sweep)
    end = raybench.run_sweep(sweep, tmp_path / "store", local=True)
    assert set(end.statuses) == {trial.trial_id for trial in planned.trials}
    assert set(end.statuses.values()) == {"ok"}
    assert end.planned == len(planned.units)
    frame = raybench.load_results(end.storage)
    assert sorted(frame["trial_id"]) == sorted(end.statuses)
    network = raybench.load_pruned(tmp_path / "store" / frame["artifact"][0])
    assert isinstance(network, nn.Module)
    again = raybench.run_sweep(file, tmp_path / "store", local=True)
    assert (again.planned, again.statuses) == (0, end.statuses)
