"""Modules of users by hand: found without importing them, the names they bind, what they import, their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from raybench import registry
from raybench.errors import SpecError
from raybench.sweep import modules


def sha(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, new and on no path that Python searches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return tmp_path


def test_modules_are_found_on_the_path_and_in_the_current_folder(here, monkeypatch) -> None:
    for name in ("top_net.py", "box/net.py", "far/far_net.py", "far/deep/__init__.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    assert modules.find_module("top_net").origin == str(here / "top_net.py")
    assert modules.find_module("box.net").origin == str(here / "box/net.py")
    assert modules.find_module("far_net", here / "far").origin == str(here / "far/far_net.py")
    assert modules.find_module("deep", here / "far").origin == str(here / "far/deep/__init__.py")
    for none in ("far_net", "box.none", "none.net", "top_net.x"):
        assert modules.find_module(none) is None
    assert modules.find_module("json.decoder").origin.endswith("json/decoder.py")
    monkeypatch.setattr(sys, "path", ["/a"])
    for _ in range(2):
        modules.reach_current_folder()
        assert sys.path == ["/a", str(here)]
    assert (
        modules.not_found("m") == f"found no module 'm' in this folder ({here}) or on the Python path (set PYTHONPATH)"
    )


def test_names_of_models_as_modules(here) -> None:
    own = {"nets.mine:net": "nets.mine", "a:b": "a", "timm:x": None, "plain": None}
    assert {name: modules.own_module(name) for name in own} == own
    typed = {
        "nets/mine.py:net": "nets.mine:net", "./mine.py:net": "mine:net", f"{here}/sub/mine.py:net": "sub.mine:net",
        "mine.py": "mine.py", "mine.txt:net": "mine.txt:net", "mine:net": "mine:net", "plain": "plain",
        "a/b.py:c.py:d": "a.b.py:c:d",
    }  # fmt: skip
    assert {name: modules.as_module(name) for name in typed} == typed


def test_hints_for_models_typed_as_files(here) -> None:
    (here / "sub").mkdir()
    (here / "mine.py").write_text("def a(): ...\ndef _b(): ...\nclass C: ...\ndef d(): ...\ndef e(): ...\nx = 3\n")
    (here / "sub/other.py").write_text("x = 1\n")
    (here / "broken.py").write_text("def (\n")
    said = "found {!r}, expected module:function. {} is in this folder: type {}"
    hints = {
        "mine": said.format("mine", "mine.py", "mine:a or mine:C or mine:d"),
        "mine.py": said.format("mine.py", "mine.py", "mine:a or mine:C or mine:d"),
        "mine.e": said.format("mine.e", "mine.py", "mine:e"),
        "mine.nope": said.format("mine.nope", "mine.py", "mine:FUNCTION"),
        "sub/other": said.format("sub/other", "sub/other.py", "sub.other:FUNCTION"),
        "sub.other": said.format("sub.other", "sub/other.py", "sub.other:FUNCTION"),
        "sub.other.f": said.format("sub.other.f", "sub/other.py", "sub.other:FUNCTION"),
        "broken": said.format("broken", "broken.py", "broken:FUNCTION"),
        "none": None, "none.py": None, "none.f": None, "": None,
    }  # fmt: skip
    assert {name: modules.module_hint(name) for name in hints} == hints


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("def a(): pass\nasync def b(): pass\nclass C:\n    def d(self): e = 1\n", {"a", "b", "C", "d", "e"}),
        ("import os.path, json as j\nfrom re import sub as s, match\n", {"os", "j", "s", "match"}),
        ("x = y = 1\nfor z in (): pass\nprint(w)\n", {"x", "y", "z"}),
        ("from a import *\nx = 1\n", set()),
        ("def __getattr__(n): ...\n", set()),
        *((f"x = 1\n{call}()\n", set()) for call in ("globals", "vars", "locals", "exec", "setattr")),
        ("x = 1\na.setattr()\n", {"x"}),
        ("not python", set()),
        ("x = '\0'", set()),
    ],
)
def test_names_that_a_file_binds(code, names, tmp_path) -> None:
    file = tmp_path / "m.py"
    file.write_text(code)
    assert modules._bound(file) == names
    assert modules._bound(tmp_path / "none.py") == frozenset()
    (tmp_path / "m.so").write_text(code)
    assert modules._bound(tmp_path / "m.so") == frozenset()


def test_a_function_that_a_module_lacks_is_told_with_its_neighbour(here) -> None:
    (here / "mine_too.py").write_text("def _nett(): ...\ndef other(): ...\n")
    modules.check_function("mine_too:other")
    modules.check_function("timm:nothing")
    modules.check_function("nowhere_at_all:net")
    for function, near in (("othr", ". Did you mean 'other'?"), ("net", "")):
        with pytest.raises(SpecError) as error:
            modules.check_function(f"mine_too:{function}")
        place = here / "mine_too.py"
        assert str(error.value) == f"model 'mine_too:{function}': {place} has no function {function!r}{near}"


def test_a_source_is_of_the_file_or_of_pairs_of_names_and_files(here) -> None:
    files = {
        "pack/__init__.py": "",
        "pack/net.py": "from . import side\n",
        "pack/side.py": "A = 1\n",
        "one.py": "B = 2\n",
    }
    for name, text in files.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    assert modules.module_source("one:net") == sha(b"B = 2\n")
    assert modules.module_source("timm:net") is None
    pairs = [[name, sha(files[name].encode())] for name in ("pack/net.py", "pack/side.py")]
    assert modules.module_source("pack.net:net") == sha(json.dumps(pairs).encode())
    (here / "pack/__init__.py").write_text("C = 3\n")
    pairs = [["pack/__init__.py", sha(b"C = 3\n")], *pairs]
    assert modules.module_source("pack.net:net") == sha(json.dumps(pairs).encode())
    with pytest.raises(SpecError) as error:
        modules.module_source("nowhere:net")
    assert str(error.value) == f"model 'nowhere:net': {modules.not_found('nowhere')}"
    (here / "empty").mkdir()
    with pytest.raises(SpecError, match="found no module 'empty'"):
        modules.module_source("empty:net")


def test_names_of_imports() -> None:
    code = (
        b"import a.b, c as d\nfrom e import f\nfrom . import g\nfrom .h import i\nfrom ..j import k\nfrom .. import l\n"
    )
    found = list(modules._imports(code, "p.q"))
    assert sorted(found) == sorted(
        ["a.b", "c", "e", "e.f", "p.q", "p.q.g", "p.q.h", "p.q.h.i", "p.j", "p.j.k", "p", "p.l"]
    )
    assert list(modules._imports(b"def (", "p")) == list(modules._imports(b"x\0", "p")) == []
    assert list(modules._parents("a.b.c")) == ["a", "a.b"]
    assert list(modules._parents("a")) == []
    assert modules._root("a.b", Path("/x/a/b.py")) == modules._root("a.b", Path("/x/a/b/__init__.py")) == Path("/x")
    assert modules._root("a", Path("/x/a.py")) == Path("/x")


def test_what_is_installed(tmp_path) -> None:
    assert modules._installed(Path(os.__file__))
    assert modules._installed(Path(pytest.__file__))
    assert modules._installed(Path(modules.__file__))
    assert modules._installed(Path("/a/site-packages/x.py"))
    assert modules._installed(Path("/a/dist-packages/x/y.py"))
    assert not modules._installed(tmp_path / "x.py")


def test_a_plug_ins_source_covers_what_lies_beside_it(here, monkeypatch) -> None:
    code = "import beside_it\nfrom raybench.registry import importance\n\n@importance('own-{0}')\nclass A{0}: ...\n"
    (here / "sub").mkdir()
    (here / "sub/beside_it.py").write_text("import json\n")
    for number, text in ((1, code), (2, code.replace("import beside_it\n", ""))):
        (here / f"sub/plug_{number}.py").write_text(text.format(number))
    monkeypatch.setattr(registry.importance, "_entries", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in (1, 2):
            registry.add_plugin(here / f"sub/plug_{number}.py")
    one, two = (registry.importance.entry(f"own-{number}") for number in (1, 2))
    assert modules.plugin_source(two) == two.source == sha((here / "sub/plug_2.py").read_bytes())
    helpers = [["beside_it", sha(b"import json\n")]]
    assert modules.plugin_source(one) == sha(json.dumps([one.source, helpers]).encode())
    assert modules.plugin_source(registry.importance.entry("lamp")) is None
