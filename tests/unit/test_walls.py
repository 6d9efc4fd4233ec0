"""The walls of the house: who may import what, read off every source file, and seen in fresh interpreters."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from raybench.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "raybench").rglob("*.py"))

ROOMS = [  # from the bottom up: an import may only go to the same room or to one further up in this list
    "error_text", "errors", "image_size", "pauses", "provenance", "catalogue", "registry", "storage", "sweep",
    "groups", "tokens", "methods", "results", "datasets", "models", "scoring", "selection", "plan", "progress", "tasks",
    "pipeline", "reports", "execution", "testing", "search", "serve", "cli",
]  # fmt: skip
FACE = {"raybench", "raybench.__main__"}  # the public names and the command: they import what they offer
ONLY = {  # module -> the files that may import it
    "ray": ["raybench/execution/*"],
    "torch": [
        f"raybench/{room}/*"
        for room in (
            "groups",
            "tokens",
            "methods",
            "datasets",
            "models",
            "scoring",
            "selection",
            "tasks",
            "pipeline",
            "testing",
        )
    ]
    + [
        "raybench/storage/checkpoints.py",
        "raybench/storage/packing.py",
        "raybench/execution/isolation.py",
        "raybench/execution/torch_settings.py",
        "raybench/execution/worker.py",
    ],
    "ultralytics": ["raybench/models/ultralytics*.py", "raybench/tasks/detection*"],
    "torch_pruning": ["raybench/groups/*", "raybench/selection/*", "raybench/methods/importance/*"],
    "fastapi": ["raybench/serve/*"],
    "yaml": ["raybench/sweep/nodes.py", "raybench/reports/reproduce.py", "raybench/execution/submission.py"],
}
LIGHT = [  # files that import neither torch nor ray, whatever they import in turn
    "raybench/errors.py", "raybench/image_size.py", "raybench/provenance.py", "raybench/catalogue.py",
    "raybench/registry.py", "raybench/storage/*", "raybench/sweep/*", "raybench/results/*", "raybench/plan/*",
    "raybench/progress/*", "raybench/reports/*", "raybench/serve/*", "raybench/cli/*",
]  # fmt: skip
NOT_LIGHT = [
    "raybench/serve/check_weights.py",  # runs in a process of its own
    "raybench/storage/checkpoints.py",  # it keeps tensors
    "raybench/storage/packing.py",
    "raybench/cli/data.py", "raybench/cli/export.py", "raybench/cli/submit.py",  # import what they run
]  # fmt: skip
HEAVY = ("torch", "ray", "torchvision", "timm", "ultralytics", "torch_pruning")


def imports(file: str, *, typing: bool = False) -> Iterator[tuple[str, int]]:
    """(module, line) of every import in `file`, those inside functions included; for type checkers with `typing`."""
    tree = ast.parse((ROOT / file).read_bytes())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only and not typing:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def matches(file: str, patterns: list[str]) -> bool:
    return any(fnmatch(file, pattern) for pattern in patterns)


@pytest.mark.parametrize("module", ONLY)
def test_only_these_rooms_import(module):
    strangers = [
        f"{file}:{line}"
        for file in FILES
        if not matches(file, ONLY[module])
        for name, line in imports(file)
        if name.partition(".")[0] == module
    ]
    assert not strangers


def test_only_the_store_writes_parquet():
    writers = {
        file
        for file in FILES
        for node in ast.walk(ast.parse((ROOT / file).read_bytes()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("write_table", "to_parquet", "ParquetWriter", "write_dataset")
    }
    assert writers == {"raybench/results/encoding.py"}


def test_light_rooms_import_no_heavy_module_themselves():
    strangers = [
        f"{file}:{line} imports {name}"
        for file in FILES
        if matches(file, LIGHT) and not matches(file, NOT_LIGHT)
        for name, line in imports(file)
        if name.partition(".")[0] in HEAVY
    ]
    assert not strangers


def test_light_rooms_stay_light_through_all_they_import():
    """Every light module in one fresh interpreter: neither torch nor ray comes along."""
    light = [file for file in FILES if matches(file, LIGHT) and not matches(file, NOT_LIGHT)]
    modules = [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in light]
    assert {"raybench.plan.plan", "raybench.sweep.reader", "raybench.results.store"} <= set(modules)
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = set({HEAVY!r}) & set(sys.modules)\n"
        "    assert not heavy, f'{name} brings {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def room_of(module: str) -> str:
    """The room of ``raybench.room.file``; the file itself for those that lie beside the rooms."""
    return module.split(".")[1]


def graph() -> dict[str, dict[str, int]]:
    """module -> what it imports of raybench (module -> line), inside functions and for type checkers too."""
    names = {file: file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in FILES}
    known = set(names.values()) - FACE
    return {
        name: {found: line for found, line in imports(file, typing=True) if found in known and found != name}
        for file, name in names.items()
        if name not in FACE
    }


def test_every_room_has_its_place():
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "raybench").iterdir() if path.name[0] not in "_."}
    assert rooms - {"py.typed", "shipped"} == set(ROOMS)  # shipped: the sweeps and recipes, as package data


def test_imports_only_go_down():
    upward = [
        f"{name} imports {found} (line {line})"
        for name, files in graph().items()
        for found, line in files.items()
        if ROOMS.index(room_of(found)) > ROOMS.index(room_of(name))
    ]
    assert not upward


def test_no_files_import_each_other_in_a_circle():
    """Repeatedly take away files that import nothing that is left; a circle is what stays."""
    left = {name: set(files) for name, files in graph().items()}
    while leaves := {name for name, files in left.items() if not files & left.keys()}:
        left = {name: files for name, files in left.items() if name not in leaves}
    assert not left


def test_every_room_says_what_it_is():
    for room in ROOMS:
        if (folder := ROOT / "raybench" / room).is_dir():
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), room


def test_patterns_name_files_that_exist():
    patterns = [pattern for patterns in ONLY.values() for pattern in patterns] + LIGHT + NOT_LIGHT
    assert not [pattern for pattern in patterns if not any(fnmatch(file, pattern) for file in FILES)]


def test_files_are_small():
    """Above 400 lines a file is two."""
    long = {file: count for file in FILES if (count := len((ROOT / file).read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_its_options(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: raybench {verb}")


def test_the_version_and_the_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("raybench 0.")
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)
