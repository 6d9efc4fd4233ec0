"""One Ray for the whole module: starting it takes seconds."""

import os

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # whatever other tests of this process start


@pytest.fixture(scope="module")
def ray_here():
    """Two slots, on whatever machine."""
    from raybench.execution.cluster import connected

    with connected(None, cpus=2):
        yield
