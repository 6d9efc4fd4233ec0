"""Variables of the environment that change numbers are in the trial; those that can't are in no id."""

import json
import os
import subprocess
import sys

import pytest

import raybench
from raybench.cli.main import main
from raybench.errors import UserError
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.environment import HARMLESS, ON_CPU, ON_GPU, check_variables, number_variables
from raybench.sweep.resolve import resolve
from tests import forked
from tests.unit.sweeps import sweep, written

SWEEP = """
name: s
datasets: digits
models: test-convnet
methods: lamp
speedups: 2
recipe: {base: {epochs: 1, lr: 0.1}, finetune: {epochs: 1, lr: 0.1}}
"""
ON_CPUS = [
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_CPU_ISA_HINTS", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DYNAMIC", "MKL_DOMAIN_NUM_THREADS",
    "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "KMP_DETERMINISTIC_REDUCTION", "OPENBLAS_CORETYPE",
    "NPY_DISABLE_CPU_FEATURES", "GLIBC_TUNABLES", "TORCH_MKLDNN_MATMUL_MIN_DIM", "TORCH_LINEAR_FLATTEN_3D",
]  # fmt: skip
ON_GPUS = [
    "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_CUDNN_V8_API_DISABLED", "TORCH_BLAS_PREFER_CUBLASLT", "TORCH_LINALG_PREFER_CUSOLVER",
    "PYTORCH_TUNABLEOP_ENABLED",
]  # fmt: skip
NEITHER = [
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY",
    "KMP_BLOCKTIME", "MKL_VERBOSE", "ONEDNN_VERBOSE", "DNNL_VERBOSE", "CUDNN_VERSION", "CUBLAS_VERSION", "TORCH_HOME",
    "PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES", "TORCH_LOGS", "ATENTION", "MKLROOT",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in number_variables("cuda"):
        monkeypatch.delenv(name)


@pytest.mark.filterwarnings("ignore:.*in the environment can change numbers")
@pytest.mark.parametrize("name", ON_CPUS)
def test_what_changes_numbers_on_a_cpu_is_in_every_id_and_key(name, monkeypatch):
    before = resolve(sweep(methods="magnitude-l2+group-norm"))[0]
    monkeypatch.setenv(name, "")
    assert resolve(sweep(methods="magnitude-l2+group-norm"))[0].trial_id == before.trial_id
    monkeypatch.setenv(name, "1")
    after = resolve(sweep(methods="magnitude-l2+group-norm"))[0]
    assert after.environment == {name: "1"}
    for key in ("trial_id", "base_key", "sparsify_key", "pass_key", "select_key"):
        assert getattr(before, key) != getattr(after, key)
    monkeypatch.setenv(name, "2")
    assert resolve(sweep(methods="magnitude-l2+group-norm"))[0].trial_id != after.trial_id


@pytest.mark.filterwarnings("ignore:.*in the environment can change numbers")
@pytest.mark.parametrize("name", ON_GPUS)
def test_what_changes_numbers_on_a_gpu_is_in_the_ids_of_cells_on_gpus_alone(name, monkeypatch):
    before = [resolve(sweep(device=device))[0].trial_id for device in ("cpu", "cuda")]
    monkeypatch.setenv(name, "1")
    after = [resolve(sweep(device=device))[0].trial_id for device in ("cpu", "cuda")]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


@pytest.mark.parametrize("name", NEITHER)
def test_what_changes_no_number_is_in_no_id(name, monkeypatch):
    before = [resolve(sweep(device=device))[0].trial_id for device in ("cpu", "cuda")]
    monkeypatch.setenv(name, "1")
    assert [resolve(sweep(device=device))[0].trial_id for device in ("cpu", "cuda")] == before


def test_every_pattern_is_reached_by_name():
    """A family hidden behind a harmless pattern would be a hole."""
    assert not set(HARMLESS) & {*ON_CPU, *ON_GPU}


def test_ids_from_before_there_was_the_field_stay(monkeypatch):
    trial = resolve(sweep())[0]
    assert "environment" not in trial.model_dump(mode="json")
    assert "environment" not in trial.id_fields
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    with pytest.warns(UserWarning, match="MKL_CBWR=AVX2 in the environment can change numbers"):
        assert resolve(sweep())[0].model_dump(mode="json")["environment"] == {"MKL_CBWR": "AVX2"}


@pytest.mark.parametrize(
    ("planned", "found", "said"),
    [
        ({"MKL_CBWR": "AVX2"}, {}, "found no MKL_CBWR, expected MKL_CBWR=AVX2"),
        ({}, {"MKL_CBWR": "AVX2"}, "found MKL_CBWR=AVX2, expected no MKL_CBWR"),
        ({"MKL_CBWR": "AVX2"}, {"MKL_CBWR": "SSE2"}, "found MKL_CBWR=SSE2, expected MKL_CBWR=AVX2"),
    ],
)
def test_a_worker_with_other_variables_than_planned_is_refused(planned, found, said, monkeypatch):
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        check_variables(planned, "cpu")
    check_variables(found, "cpu")


def test_a_cell_planned_with_a_variable_that_the_worker_lacks_is_a_failed_row(tmp_path, monkeypatch):
    planned = raybench.load_sweep(written(tmp_path, SWEEP))
    monkeypatch.setattr("raybench.sweep.resolve.number_variables", lambda device: {"MKL_CBWR": "AVX2"})
    with pytest.warns(UserWarning, match="MKL_CBWR=AVX2"):
        end = raybench.run_sweep(planned, tmp_path / "store", local=True)
    assert set(end.statuses.values()) == {"failed"}
    (row,) = rows_of(tmp_path / "store")
    assert "found no MKL_CBWR, expected MKL_CBWR=AVX2" in row["error_message"]


def test_another_instruction_set_is_another_row_and_each_says_what_torch_used(tmp_path, capsys):
    file = written(tmp_path, SWEEP)
    run = ["run", str(file), "--local", "--storage", str(tmp_path / "store")]
    plain = forked.run(forked.COMMAND, *run)
    new = [sys.executable, "-m", "raybench", *run]  # torch reads the variable when it is imported
    other = subprocess.run(new, capture_output=True, text=True, env=os.environ | {"ATEN_CPU_CAPABILITY": "default"})
    assert [plain.returncode, other.returncode] == [0, 0], plain.stderr + other.stderr
    warning = "ATEN_CPU_CAPABILITY=default in the environment can change numbers"
    assert [warning in plain.stderr, warning in other.stderr] == [False, True]
    rows = {json.loads(row["trial"]).get("environment", {}).get("ATEN_CPU_CAPABILITY"): row for row in
            rows_of(tmp_path / "store")}  # fmt: skip
    assert rows.keys() == {None, "default"}
    assert rows["default"]["provenance"]["cpu_capability"] == "DEFAULT" != rows[None]["provenance"]["cpu_capability"]
    assert rows["default"]["base_key"] != rows[None]["base_key"]
    capsys.readouterr()
    assert main(["show", rows["default"]["trial_id"], "--results", str(tmp_path / "store")]) == 0
    assert "ATEN_CPU_CAPABILITY=default raybench run" in " ".join(capsys.readouterr().out.split())


def rows_of(folder) -> list[dict]:
    return Store(open_storage(str(folder))).table().to_pylist()
