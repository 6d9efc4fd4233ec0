"""Variables of the environment that change numbers: those of torch, oneDNN, MKL, OpenMP, BLAS and CUDA."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache

from raybench.errors import UserError

# Families by pattern: which kernels, instruction sets, precisions and numbers of threads a library chooses.
ON_CPU = (
    "ATEN_*", "DNNL_*", "ONEDNN_*", "MKL_*", "MKLDNN_*", "OMP_*", "GOMP_*", "KMP_*", "LIBOMP_*", "OPENBLAS_*", "BLIS_*",
    "GOTO_*", "NPY_*CPU_FEATURES", "GLIBC_TUNABLES", "TORCH_MKLDNN_*", "TORCH_LINEAR_*", "TORCH_NNPACK*",
)  # fmt: skip
ON_GPU = (
    "NVIDIA_TF32_OVERRIDE", "CUBLAS_*", "CUBLASLT_*", "CUDNN_*", "TORCH_ALLOW_TF32_*", "TORCH_BLAS_*", "TORCH_CUDNN_*",
    "TORCH_LINALG_*", "TORCH_ROCM_*", "PYTORCH_TUNABLEOP_*", "PYTORCH_MIOPEN_*", "MIOPEN_*",
    "HIPBLASLT_*", "ROCBLAS_*",
)  # fmt: skip
# Members that say what is printed, where files lie, where threads run and how they wait; and numbers of threads that
# each unit sets itself (OMP_NUM_THREADS, MKL_NUM_THREADS) or that change nothing (OpenBLAS solves small systems here).
HARMLESS = (
    "*VERBOSE*", "*DEBUG*", "*DUMP*", "*LOG*", "*PROFILE*", "*_VERSION", "*_HOME", "*_ROOT", "*_PATH", "*_DIR",
    "*_FILENAME", "*CACHE*", "*STACKSIZE", "*BIND*", "*PLACES*", "*AFFINITY*", "*WAIT_POLICY", "*SPINCOUNT*",
    "*BLOCKTIME", "*DISPLAY*", "*SETTINGS", "*WARNINGS", "*LIB_OK", "*FORK*", "*CANCELLATION*", "*_TOOL*",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS",
    "OMP_TARGET_OFFLOAD", "OMP_DEFAULT_DEVICE", "OMP_ALLOCATOR",
    "OMP_MAX_TASK_PRIORITY", "MKL_DISABLE_FAST_MM", "MKL_SERVICE_FORCE_INTEL", "MKL_MPI_*",
)  # fmt: skip


def number_variables(device: str) -> dict[str, str]:
    """The variables of this process's environment, by name, that change what is computed on `device`.

    An unset one and an empty one are the same. Beside a GPU those of the processor count, too: it reads the data.
    """
    families = (*ON_CPU, *ON_GPU) if device == "cuda" else ON_CPU
    return {name: value for name, value in sorted(os.environ.items()) if value and _counts(name, families)}


def warn_of_variables(found: Mapping[str, str]) -> None:
    """Warn that `found` is part of the ids."""
    if found:
        warnings.warn(
            f"{assignments(found)} in the environment can change numbers: it is part of every trial_id here. Unset it "
            "unless you mean it",
            UserWarning,
            stacklevel=2,
        )


def check_variables(planned: Mapping[str, str], device: str) -> None:
    """UserError when this process has other variables than those that a trial was planned with."""
    found = number_variables(device)
    if found == dict(planned):
        return
    names = [name for name in sorted({*found, *planned}) if found.get(name) != planned.get(name)]
    here, there = ({name: variables.get(name) for name in names} for variables in (found, planned))
    raise UserError(
        f"environment of {socket.gethostname()}: found {assignments(here)}, expected {assignments(there)}, with which "
        "the cell was planned: it can change numbers. Set it on every node as where the sweep is started"
    )


def assignments(variables: Mapping[str, str | None]) -> str:
    """`NAME=value` of each, `no NAME` for None."""
    return " ".join(f"no {name}" if value is None else f"{name}={value}" for name, value in variables.items())


@cache
def _counts(name: str, families: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, family) for family in families) and not any(fnmatchcase(name, h) for h in HARMLESS)
