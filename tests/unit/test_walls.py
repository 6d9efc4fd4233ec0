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

ONLY = {  # module -> the files that may import it
    "ray": ["raybench/execution/*"],
    "ultralytics": ["raybench/models/ultralytics*.py", "raybench/tasks/detection*"],
    "torch_pruning": ["raybench/pipeline/group*.py", "raybench/pipeline/prune*.py", "raybench/methods/importance/*.py"],
    "yaml": [
        "raybench/spec/nodes.py",
        "raybench/results/reproduce.py",
        "raybench/execution/submission.py",
    ],  # one reads
}
LIGHT = [  # files that import neither torch nor ray, whatever they import in turn
    "raybench/errors.py", "raybench/catalogue.py", "raybench/registry.py", "raybench/plan*.py", "raybench/spec/*.py",
    "raybench/results/*.py", "raybench/storage/*.py", "raybench/progress/*.py",
    "raybench/cli/main.py", "raybench/cli/output.py", "raybench/cli/watch.py", "raybench/cli/gc.py",
    "raybench/cli/sweep_arguments.py", "raybench/cli/plan.py", "raybench/cli/validate.py", "raybench/cli/schema.py",
    "raybench/cli/methods.py", "raybench/cli/models.py", "raybench/cli/datasets.py", "raybench/cli/leaderboard.py",
    "raybench/cli/show.py", "raybench/cli/compact.py", "raybench/cli/query.py", "raybench/cli/compare.py",
    "raybench/cli/merge.py", "raybench/cli/report.py", "raybench/cli/serve.py",
]  # fmt: skip
NOT_LIGHT = ["raybench/storage/checkpoints.py"]  # tensors are what it keeps
HEAVY = ("torch", "ray", "torchvision", "timm", "ultralytics", "torch_pruning")


def imports(file: str) -> Iterator[tuple[str, int]]:
    """(module, line) of every import in `file`, those inside functions included, those for type checkers not."""
    tree = ast.parse((ROOT / file).read_bytes())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
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
    assert writers <= {"raybench/results/store.py"}


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
    assert {"raybench.plan", "raybench.spec.reader", "raybench.results.store"} <= set(modules)
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = set({HEAVY!r}) & set(sys.modules)\n"
        "    assert not heavy, f'{name} brings {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_pipeline_and_local_running_do_without_ray():
    rooms = [
        "raybench/pipeline/*.py",
        "raybench/methods/*",
        "raybench/models/*",
        "raybench/datasets/*",
        "raybench/tasks/*",
    ]
    strangers = [
        f"{file}:{line}"
        for file in FILES
        if matches(file, rooms)
        for name, line in imports(file)
        if name.partition(".")[0] == "ray" or name.startswith("raybench.execution")
    ]
    assert not strangers


def test_no_room_reaches_back():
    """Data walks one way: spec, plan, execution, pipeline, results."""
    back = {
        "raybench/spec/*": (
            "raybench.plan",
            "raybench.pipeline",
            "raybench.execution",
            "raybench.results",
            "raybench.cli",
        ),
        "raybench/results/*": ("raybench.plan", "raybench.execution", "raybench.cli"),
        "raybench/plan*.py": ("raybench.pipeline", "raybench.execution", "raybench.cli"),
        "raybench/pipeline/*": ("raybench.execution", "raybench.cli"),
        "raybench/methods/*": ("raybench.execution", "raybench.cli", "raybench.results", "raybench.plan"),
        "raybench/storage/*": (
            "raybench.pipeline",
            "raybench.plan",
            "raybench.spec",
            "raybench.results",
            "raybench.cli",
        ),
    }
    strangers = [
        f"{file}:{line} imports {name}"
        for pattern, forbidden in back.items()
        for file in FILES
        if fnmatch(file, pattern)
        for name, line in imports(file)
        if any(name == one or name.startswith(f"{one}.") for one in forbidden)
    ]
    assert not strangers


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
