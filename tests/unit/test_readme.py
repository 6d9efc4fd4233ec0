"""The documents are true: generated parts, commands and their options, links, make targets, examples."""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raybench import registry
from raybench.cli.main import VERBS, main
from raybench.groups.cost import count_macs
from raybench.sweep.reader import load_sweep
from raybench.testing.conformance import check_file
from tests import forked
from tests.readme_tree import ROOT, generated, renewed
from tests.unit.test_walls import ROOMS

NAMES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "cluster/README.md"]
NAMES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
TEXTS = {name: (ROOT / name).read_text() for name in NAMES}
README = TEXTS["README.md"]

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")  # SWEEP, TRIAL_ID: something to fill in


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [code for _, found, code in FENCED.findall(text) if found == language]


def code_lines(text: str) -> Iterator[str]:
    """Lines of fenced and indented code that people may type, with continued lines joined; not Python or YAML."""
    text = re.sub(r"<!-- (tree|columns|quickstart).*?<!-- /\1 -->", "", text, flags=re.DOTALL)
    for _, language, code in FENCED.findall(text):
        if language not in ("python", "yaml", "bibtex"):
            yield from code.replace("\\\n", " ").splitlines()
    rest = FENCED.sub("", text).replace("\\\n", " ")
    yield from re.findall(r"^(?: {4,}|\t)(\S.*)$", rest, re.MULTILINE)


def spans(text: str) -> Iterator[str]:
    """Code spans in the text; a span may run over a line's end."""
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCED.sub("", text)):
        yield " ".join(span.split())


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """(words after `raybench`, whether it is a whole command) of every raybench command that a document shows."""
    shown = [(line, True) for line in code_lines(text)] + [(span, False) for span in spans(text)]
    for line, whole in shown:
        if found := re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:python -m )?raybench ([a-z-].*)", line):
            words = shlex.split(found[1], comments=True)
            yield words, whole and "..." not in words


@functools.cache
def parser_of(verb: str) -> argparse.ArgumentParser:
    """The verb's options, without running it; the address of the cluster is known, as README.md sets it."""
    parser = argparse.ArgumentParser(prog=f"raybench {verb}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYBENCH_ADDRESS", "http://localhost:8265")
        importlib.import_module(f"raybench.cli.{verb.replace('-', '_')}").arguments(parser)
    return parser


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name != "docs/hostile.md"]
)  # its mistakes are meant, and run
def test_every_command_exists_with_its_options(name):
    for (verb, *words), whole in commands(TEXTS[name]):
        if verb in ("--help", "--version", "VERB"):
            continue
        assert verb in VERBS, f"raybench {verb}"
        known = parser_of(verb)._option_string_actions
        for word in words:
            option, _, _ = word.partition("=")
            assert not re.fullmatch(r"-\w|--[a-z-]+", option) or option in known, f"raybench {verb} has no {option}"
        if whole and "--help" not in words and "-h" not in words:
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
                parser_of(verb).parse_args([number_for(known, words, i) for i in range(len(words))])
            assert not errors.getvalue(), f"raybench {verb} {shlex.join(words)}: {errors.getvalue()}"


def number_for(known: dict, words: list[str], place: int) -> str:
    """The word at `place`; 2 where it stands for a number to fill in."""
    option = known.get(words[place - 1]) if place else None
    is_number = option is not None and option.type in (int, float)
    return "2" if is_number and PLACEHOLDER.fullmatch(words[place]) else words[place]


def test_commands_are_found():
    """The test above would pass if nothing were found."""
    typed = {words[0] for text in TEXTS.values() for words, _ in commands(text)}
    assert set(VERBS) - typed == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    place = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", TEXTS[name])):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = place / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_named_exists(name):
    text = re.sub(r"<!-- tree.*?<!-- /tree -->", "", TEXTS[name], flags=re.DOTALL)
    for path in re.findall(r"(?<![\w/.\-])(?:raybench|tests|sweeps|docs|cluster)/[\w./-]*\w", text):
        assert (ROOT / path).exists() or "." not in Path(path).name, path


def test_every_make_target_is_one():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = {
        found[1]
        for text in TEXTS.values()
        for line in (*code_lines(text), *spans(text))
        if (found := re.match(r"\s*make ([a-z-]+)", line))
    }
    assert {"quickstart", "test", "test-all", "lint"} <= typed <= targets


def test_every_module_that_is_run_is_there():
    modules = {found for text in TEXTS.values() for found in re.findall(r"python -m ((?:tests|raybench)[\w.]*)", text)}
    assert {"raybench", "raybench.testing.conformance"} <= modules
    assert not [name for name in modules if importlib.util.find_spec(name) is None]


def test_every_benchmark_starts_as_its_page_says():
    modules = set(re.findall(r"python -m (tests\.[\w.]+)", TEXTS["docs/benchmarks.md"]))
    assert {
        "tests.benchmarks.bench_prune",
        "tests.benchmarks.bench_scoring",
        "tests.benchmarks.bench_startup",
    } <= modules
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    for module in modules:
        done = forked.run(code, module, "--help", cwd=ROOT, env=plain)
        assert done.returncode == 0, done.stderr
        assert f"python -m {module}" in done.stdout


def test_generated_parts_are_those_of_the_files():
    parts = {part: name for name in NAMES for part, _ in generated(TEXTS[name])}
    assert parts == {"tree": "docs/architecture.md", "columns": "docs/results.md"}
    stale = [name for name in parts.values() if renewed(TEXTS[name]) != TEXTS[name]]
    assert not stale, f"run: python tests/readme_tree.py {' '.join(stale)}"


def test_the_rooms_stand_in_their_order():
    section = TEXTS["docs/architecture.md"].partition("## The packages")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == ROOMS


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_quoted_tables_of_the_readme_are_those_of_the_results():
    board = blocks(README, "")[0]
    lines = set(TEXTS["docs/results.md"].splitlines())
    assert "~: among the best of its column" in board
    assert set(board.splitlines()) <= lines


def example(text: str, word: str) -> str:
    """The one Python block that has `word`."""
    (found,) = [code for code in blocks(text, "python") if word in code]
    return found


def test_the_example_method_is_short_and_conforms(tmp_path, monkeypatch):
    code = example(README, "@importance")
    assert len(code.splitlines()) < 30
    file = tmp_path / "capped.py"
    file.write_text(code)
    monkeypatch.setattr(registry, "importance", registry.Registry("importance", "raybench.methods.importance"))
    monkeypatch.setattr(registry, "regularizer", registry.Registry("regularizer", "raybench.methods.regularizers"))
    assert check_file(file) == ["criterion capped"]


def test_the_python_example_halves_a_resnet(capsys):
    names: dict = {}
    exec(compile(example(README, "raybench.prune("), "README.md", "exec"), names)
    pruned = names["pruned"]
    assert pruned.speedup == pytest.approx(2, rel=0.005)
    assert count_macs(pruned.model, torch.zeros(1, 3, 224, 224)) == pruned.macs
    assert capsys.readouterr().out.split()[1:] == [
        str(n) for n in (pruned.macs_base, pruned.macs, pruned.params_base, pruned.params)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_python_block_compiles(name):
    for code in blocks(TEXTS[name], "python"):
        compile(code, name, "exec")


def test_the_sweeps_of_the_guide_are_valid(tmp_path, monkeypatch):
    """Every YAML block names its file in its first line; together with the model they are a folder that works."""
    monkeypatch.setattr(registry, "importance", registry.Registry("importance", "raybench.methods.importance"))
    assert main(["new-method", "my-criterion", "--folder", str(tmp_path)]) == 0
    registry.importance.add_file(tmp_path / "my_criterion.py")
    (tmp_path / "mynet.pth").touch()
    files = {code.splitlines()[0].removeprefix("# "): code for code in blocks(TEXTS["docs/guide.md"], "yaml")}
    for file, code in files.items():
        (tmp_path / file).write_text(code)
    sweeps = {file: load_sweep(tmp_path / file) for file, code in files.items() if "name:" in code}
    assert set(sweeps) == {"flowers-sweep.yaml", "mine.yaml", "more.yaml"}
    (tmp_path / "recipe.yaml").write_text(files["mine.yaml"].replace("recipe: quick", "recipe: flowers.yaml"))
    assert load_sweep(tmp_path / "recipe.yaml").recipe.finetune.epochs == 20


def test_the_model_of_the_guide_builds():
    names: dict = {"__name__": "mynet"}
    exec(compile(example(TEXTS["docs/guide.md"], "def net("), "mynet.py", "exec"), names)
    model = names["net"](num_classes=3, in_channels=3, image_size=32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
