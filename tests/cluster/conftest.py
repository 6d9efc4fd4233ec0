"""One Ray for the whole module: starting it takes seconds."""

import pytest

from raybench.execution.cluster import connected


@pytest.fixture(scope="module")
def ray_here():
    with connected(None):
        yield
