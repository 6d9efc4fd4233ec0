"""The README is true: its tree, its commands, its links and its example of a method."""

import os
import re
import subprocess
import sys

from raybench import registry
from raybench.cli.main import VERBS
from raybench.methods.conformance import check_file
from tests.readme_tree import BEGIN, END, ROOT, tree

README = (ROOT / "README.md").read_text()


def test_the_tree_is_the_one_of_the_files():
    told = README.partition(BEGIN)[2].partition(END)[0]
    assert told == tree(), "run: python tests/readme_tree.py README.md"


def test_every_verb_is_a_verb():
    typed = set(re.findall(r"raybench ([a-z][a-z-]+) (?:[A-Zsm]|DIR)", README)) | {"methods", "schema"}
    assert {"run", "plan", "leaderboard", "show"} <= typed <= set(VERBS)


def test_every_make_target_is_one():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"quickstart", "test"} <= set(re.findall(r"(?:`|^    )make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_benchmark_starts_as_the_readme_says():
    modules = set(re.findall(r"python -m (tests\.[\w.]+)", README))
    assert modules == {"tests.benchmarks.bench_prune", "tests.benchmarks.bench_scoring"}
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for module in modules:
        command = [sys.executable, "-m", module, "--help"]
        told = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=120, check=True)
        assert f"python -m {module}" in told.stdout


def test_the_example_method_is_short_and_conforms(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len(code.splitlines()) < 30
    file = tmp_path / "capped.py"
    file.write_text(code)
    monkeypatch.setattr(registry, "importance", registry.Registry("importance", "raybench.methods.importance"))
    monkeypatch.setattr(registry, "regularizer", registry.Registry("regularizer", "raybench.methods.regularizers"))
    assert check_file(file) == ["importance capped"]
