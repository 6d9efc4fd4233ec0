"""Documents and examples are true: scripts and notebook run, docs/methods names every method and its code conforms."""

import json
import os
import re
from pathlib import Path

import pytest

from raybench import registry
from raybench.cli.main import main
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from raybench.testing.conformance import check_file
from tests import forked
from tests.unit.result_rows import failure, row, trial

ROOT = Path(__file__).parents[2]
EXAMPLES, METHODS = ROOT / "docs/examples", ROOT / "docs/methods"
PAGES = sorted(METHODS.glob("*.md"))
INDEX = (METHODS / "README.md").read_text()
KINDS = {kind.noun: kind for kind in (registry.importance, registry.selection, registry.regularizer, registry.token)}
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", "".join(page.read_text() for page in PAGES), re.DOTALL)
SCRIPT = """
import runpy, sys
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ALL_CELLS = """
import json, sys
namespace = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), namespace)
"""


@pytest.fixture
def store(tmp_path):
    """A folder `results` with four finished cells of two methods and one failed cell."""
    found = Store(open_storage(tmp_path / "results"))
    for method, final in (("magnitude-l2", 97.0), ("taylor", 95.0)):
        for seed in (0, 1):
            assert found.publish(row(trial(method, seed=seed), metric_final=final + seed))
    found.publish_attempt(failure(trial("lamp")))
    return tmp_path / "results"


def run(*arguments: str | Path, folder: Path) -> str:
    """Standard output of code with these arguments, run in `folder` on one thread."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = forked.run(*arguments, cwd=folder, env=one_thread)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_example_is_tested():
    names = {file.name for file in EXAMPLES.iterdir() if file.is_file()}
    assert names == {"prune_in_python.py", "own_criterion.py", "read_results.py", "notebook.ipynb"}


def test_prune_in_python(tmp_path):
    printed = run(SCRIPT, EXAMPLES / "prune_in_python.py", folder=tmp_path)
    assert re.findall(r"(\S+) +(\d\.\d\d)x", printed) == [
        ("magnitude-l2", "2.00"),
        ("magnitude-l2", "4.00"),
        ("lamp", "4.00"),
    ]
    assert "output of the pruned network: (16, 10)" in printed


def test_own_criterion(tmp_path):
    printed = run(SCRIPT, EXAMPLES / "own_criterion.py", folder=tmp_path)
    speedups = printed.splitlines()[-1].split()[1:]
    assert [float(found) for found in speedups] == pytest.approx([2, 2], rel=0.005)
    assert check_file(EXAMPLES / "own_criterion.py") == ["criterion weight-spread"]


def test_read_results(store, tmp_path):
    printed = run(SCRIPT, EXAMPLES / "read_results.py", store, folder=tmp_path)
    assert re.search(r"^ok +4\nfailed +1$", printed, re.MULTILINE)
    assert re.search(r"digits cifar-resnet20 +2.00 protected-global magnitude-l2 97.50 0.71 +2$", printed, re.MULTILINE)
    assert "taylor" not in printed


def test_notebook(store, tmp_path):
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | code
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    printed = run(ALL_CELLS, EXAMPLES / "notebook.ipynb", folder=tmp_path)
    assert re.search(r"cifar-resnet20 +2.0 +magnitude-l2 +97.5 +0.71 +2", printed)


def test_the_index_names_every_method_with_its_needs_and_source(capsys):
    main(["methods", "--format", "json"])
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([\w ]+) \| ([\w, -]+) \| \[([\w-]+)\]\(\4\.md\) \| (.+) \|$", INDEX, re.MULTILINE
    )
    listed = json.loads(capsys.readouterr().out)
    expected = [
        (one["name"], one["kind"], ", ".join(filter(None, (one["needs"], one["requires"]))), one["paper"])
        for one in listed
    ]
    assert sorted((name, word, needs, paper) for name, word, needs, _, paper in rows) == sorted(expected)
    for name, _, _, page, _ in rows:
        assert f"`{name}`" in (METHODS / f"{page}.md").read_text().partition("\n")[0], name


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_pages_have_every_parameter_with_its_default(kind):
    text = "".join(page.read_text() for page in PAGES)
    for name, entry in kind.entries().items():
        both = sum(name in one.entries() for one in KINDS.values()) > 1
        label = f"`{name}`" + (rf" \({kind.kind}\)" if both else "")
        found = dict(re.findall(rf"^\| {label} \| `(\w+)` \| (\S+) \|", text, re.MULTILINE))
        assert found == {parameter: str(default) for parameter, default in entry.params.items()}, name


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text()):
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else ()
            assert not anchor or anchor in {re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings}


@pytest.mark.parametrize("code", PYTHON_BLOCKS, ids=lambda code: code[3:].partition(".py")[0])
def test_every_method_in_the_documents_conforms(code, tmp_path):
    file = tmp_path / f"{code[3:].partition('.py')[0]}.py"
    file.write_text(code)
    assert [name.replace("-", "_") for name in check_file(file)] in (
        [f"criterion {file.stem}"],
        [f"trained selection {file.stem}"],
        [f"regularizer {file.stem}"],
    )


def test_the_sweep_in_the_documents_takes_the_methods(tmp_path):
    for number, code in enumerate(PYTHON_BLOCKS):
        (tmp_path / f"method_{number}.py").write_text(code)
        registry.add_plugin(tmp_path / f"method_{number}.py")
    (tmp_path / "my-sweep.yaml").write_text(re.search(r"```yaml\n(.*?)```", INDEX, re.DOTALL)[1])
    methods = load_sweep(tmp_path / "my-sweep.yaml").methods
    assert [method.name for method in methods] == ["random", "magnitude-l2", "capped", "capped", "capped+group-norm"]
    entries = dict(re.findall(r'^\[project.entry-points."raybench.(\w+)"\]\n([\w-]+) =', INDEX, re.MULTILINE))
    assert all(name in getattr(registry, kind).entries() for kind, name in entries.items())
