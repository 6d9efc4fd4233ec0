"""The examples in the docstrings of the public modules run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import raybench.results

PUBLIC = (
    "raybench",
    "raybench.methods.protocols",
    "raybench.pipeline.in_memory",
    "raybench.plan.plan",
    "raybench.registry",
    "raybench.sweep.reader",
    "raybench.results",
    *sorted(f"raybench.results.{module.name}" for module in pkgutil.iter_modules(raybench.results.__path__)),
)


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed
