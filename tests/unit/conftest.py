"""Fixtures of all unit tests."""

import pytest

from raybench import registry


@pytest.fixture(autouse=True)
def no_plugins_left():
    """Plug-in files that a test adds are forgotten after it."""
    yield
    for one in registry.KINDS:
        if one._plugins:
            one._plugins, one._entries = [], None
