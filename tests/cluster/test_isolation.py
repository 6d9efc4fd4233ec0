"""One unit leaves nothing behind in the process that the next could notice."""

import os
import random

import numpy as np
import pytest
import torch

from raybench.execution import isolation
from raybench.execution.isolation import MemoryBaseline, isolated, resident
from raybench.execution.torch_settings import Settings


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_random_numbers_depend_on_the_unit_alone():
    with isolated("a", 1):
        first = draws()
    torch.rand(100)
    with isolated("b", 1):
        other = draws()
    with isolated("a", 1):
        again = draws()
    assert first == again
    assert first != other


def test_what_a_unit_turns_is_turned_back():
    before = [one[:2] for one in Settings.now().values], dict(os.environ), os.getcwd()
    with isolated("a", 2):
        assert torch.get_num_threads() == 2
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.autograd.set_detect_anomaly(True)
        torch.backends.mkldnn.enabled = False
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cuda.enable_math_sdp(False)
        torch.set_autocast_enabled("cpu", True)
        torch.set_flush_denormal(True)
        np.seterr(all="raise")
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
        os.environ["LEFT_BEHIND"] = "1"
        os.chdir("/")
    assert ([one[:2] for one in Settings.now().values], dict(os.environ), os.getcwd()) == before
    assert not torch.nn.modules.module._global_forward_hooks
    assert float(torch.tensor(1e-40) * 1) > 0  # denormal numbers are not zero


BACKENDS, CUDNN, MKLDNN = torch.backends, torch.backends.cudnn, torch.backends.mkldnn


@pytest.mark.parametrize(
    ("holder", "name", "value"),
    [
        (BACKENDS.cuda.matmul, "fp32_precision", "tf32"), (BACKENDS.cuda.matmul, "allow_tf32", True),
        (BACKENDS, "fp32_precision", "tf32"), (CUDNN, "fp32_precision", "tf32"),
        (CUDNN.conv, "fp32_precision", "ieee"), (MKLDNN, "fp32_precision", "bf16"),
        (MKLDNN.conv, "fp32_precision", "bf16"), (MKLDNN.matmul, "fp32_precision", "ieee"),
    ],
)  # fmt: skip
def test_switches_of_float32_products_are_turned_back_although_one_changes_others(holder, name, value):
    """With oneDNN's on "ieee" a CPU sums in another order, and the next unit would have other numbers."""
    torchs = [one[:2] for one in Settings.now().values]
    with isolated("a", torch.get_num_threads()):
        setattr(holder, name, value)
    assert [one[:2] for one in Settings.now().values] == torchs
    setattr(holder, name, value)
    try:
        callers = [one[:2] for one in Settings.now().values]
        with isolated("a", torch.get_num_threads()):
            assert [one[:2] for one in Settings.now().values] == torchs
        assert [one[:2] for one in Settings.now().values] == callers
    finally:
        with isolated("a", torch.get_num_threads()):
            fresh = Settings.now()
        fresh.restore()


def test_units_run_on_in_a_folder_that_was_removed(tmp_path, monkeypatch):
    here, ran = tmp_path / "here", []
    here.mkdir()
    monkeypatch.chdir(here)
    with isolated("a", 1):
        here.rmdir()
        os.chdir("/")
    with isolated("b", 1):
        ran.append(os.path.exists("."))
    assert ran == [True]
    with pytest.raises(FileNotFoundError):
        os.getcwd()


def test_a_unit_that_raises_is_undone_too():
    def unit():
        with isolated("a", 1):
            torch.set_default_dtype(torch.float64)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        unit()
    assert torch.get_default_dtype() is torch.float32


def test_memory_that_stays_is_noticed_and_memory_that_goes_is_not(monkeypatch):
    monkeypatch.setattr(isolation, "HOST_BOUND", 100 << 20)
    baseline = MemoryBaseline()
    with isolated("a", 1):
        torch.ones(200 << 18)  # 200 MiB
    assert baseline.excess() == ""
    with isolated("b", 1):
        kept = torch.ones(200 << 18)
    assert "MiB of memory above the baseline" in baseline.excess()
    del kept
    assert resident() > 0
