"""Public docstrings: the examples run and print what they say, and Args, Returns, Raises and Example are there."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import textwrap
from dataclasses import fields, is_dataclass

import pytest

import raybench
import raybench.results

RESULTS = tuple(sorted(f"raybench.results.{module.name}" for module in pkgutil.iter_modules(raybench.results.__path__)))
EXAMPLES = (
    "raybench",
    "raybench.execution.run",
    "raybench.errors",
    "raybench.methods.protocols",
    "raybench.methods.records",
    "raybench.pipeline.artifact",
    "raybench.pipeline.in_memory",
    "raybench.plan.plan",
    "raybench.registry",
    "raybench.reports.leaderboard",
    "raybench.sweep.reader",
    *RESULTS,
)
DOCUMENTED = ("raybench.methods.protocols", "raybench.methods.records", "raybench.registry", *RESULTS)
ALIASES = {"importance", "regularizer", "model", "dataset"}  # instances of Registry, which is checked


def _objects():
    """Qualified name -> every class and function that is public by its module or by `import raybench`."""
    found = {f"raybench.{name}": getattr(raybench, name) for name in raybench.__all__ if name not in ALIASES}
    for name in DOCUMENTED:
        for own, value in vars(importlib.import_module(name)).items():
            if not own.startswith("_") and getattr(value, "__module__", None) == name and callable(value):
                found[f"{name}.{own}"] = value
    return {name: value for name, value in found.items() if inspect.isclass(value) or inspect.isroutine(value)}


OBJECTS = _objects()


def _methods(found):
    """Public methods that the class defines itself; the default of a dataclass field is none."""
    for name, value in vars(found).items():
        if name in getattr(found, "__dataclass_fields__", {}):
            continue
        routine = inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod)
        if routine and (not name.startswith("_") or name == "__call__"):
            yield name, value.fget if isinstance(value, property) else getattr(value, "__func__", value)


def _raises(function):
    """Whether the function's own body has a `raise`; one inside a nested function is not its own."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    return any(isinstance(node, ast.Raise) and "AssertionError" not in ast.unparse(node) for node in ast.walk(tree))


def _missing(function, text):
    """Sections that the docstring of a function or method lacks, and parameters that it doesn't name."""
    signature = inspect.signature(function)
    named = [p.name for p in signature.parameters.values() if p.name not in ("self", "cls")]
    yield from ("Args:" for _ in named[:1] if "Args:" not in text)
    yield from (f"{name}:" for name in named if f" {name}:" not in text and f" **{name}:" not in text)
    if signature.return_annotation not in (None, "None", inspect.Signature.empty) and "Returns:" not in text:
        yield "Returns:"
    if "Raises:" not in text and _raises(function):
        yield "Raises:"


def _lacking(found):
    text = found.__doc__ or ""
    if ">>>" not in text or "Example:" not in text:
        yield "Example:"
    if not inspect.isclass(found):
        yield from _missing(found, text)
        return
    named = [field.name for field in fields(found) if not field.name.startswith("_")] if is_dataclass(found) else []
    yield from (f"{name}:" for name in named if f" {name}:" not in text)
    if "__init__" in vars(found) and not is_dataclass(found):
        yield from _missing(found.__init__, text)
    for name, method in _methods(found):
        own = method.__doc__ or ""
        lacks = [part for part in _missing(method, own) if not (part == "Returns:" and _is_property(found, name))]
        yield from (f"{name} {part}" for part in [*lacks, *(["docstring"] if not own else [])])


def _is_property(found, name):
    return isinstance(vars(found)[name], property)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not failed


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_public_docstrings_say_arguments_results_errors_and_an_example(name):
    assert list(_lacking(OBJECTS[name])) == []
