"""The developers' pack of real samples, beside the checkout or where RAYBENCH_SHARED says; tests skip without it."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("RAYBENCH_SHARED", Path(__file__).parents[2] / "shared")) / "data"

needs_data = pytest.mark.skipif(
    not (DATA / "cifar10").is_dir(), reason=f"the real samples are not at {DATA} (RAYBENCH_SHARED)"
)
