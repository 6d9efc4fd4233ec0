"""Names are found by reading sources: facts, parameters, inheritance, collisions, plug-ins, entry points."""

import json
import os
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from pydantic import ValidationError

from raybench import registry
from raybench.catalogue import REQUIRED, read_entries
from raybench.cli.main import main
from raybench.errors import UserError
from raybench.sweep.axes import MethodAxis

METHOD = '''
"""A plug-in."""
from dataclasses import dataclass
from typing import ClassVar

from raybench.methods.protocols import ElementwiseImportance
from raybench.registry import importance


@importance("my-square")
@dataclass(frozen=True)
class MySquare(ElementwiseImportance):
    """Squares of the weights.

    Not the first line.
    """

    power: float = 2.0
    times: int = 1
    note: ClassVar = "a fact"
    version = 3
    computed = 1 + len("not a literal")

    def saliency(self, layer):
        return layer.weight.abs() ** self.power


@importance("my-cube", extra=(1, 2))
@dataclass(frozen=True)
class MyCube(MySquare):
    power: float = 3.0
    needs: ClassVar = "gradients"
'''


@pytest.fixture
def plugin(tmp_path):
    """A plug-in file that is known while the test runs."""
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    registry.add_plugin(file)
    return file


def entries(file: Path, kind: str = "importance") -> dict:
    return {entry.name: entry for entry in read_entries(kind, file, None)}


def test_facts_and_parameters_are_read_with_the_bases_defaults(plugin):
    entry = registry.importance.entry("my-square")
    assert entry.params == {"power": 2.0, "times": 1}
    assert entry.summary == "Squares of the weights."
    facts = {name: entry.facts[name] for name in ("needs", "requires", "version", "note", "reduce")}
    assert facts == {"needs": "weights", "requires": None, "version": 3, "note": "a fact", "reduce": "mean"}
    assert "computed" not in entry.facts


def test_a_base_class_may_come_from_the_public_names(tmp_path, plugin):
    file = tmp_path / "public.py"
    file.write_text(
        METHOD.replace("from raybench.methods.protocols import", "from raybench import").replace(
            "from raybench.registry import", "from raybench import"
        )
    )
    assert entries(file)["my-square"].facts == entries(plugin)["my-square"].facts
    assert entries(file)["my-square"].facts["needs"] == "weights"


def test_a_class_inherits_from_another_criterion_of_its_file(plugin):
    entry = registry.importance.entry("my-cube")
    assert entry.params == {"power": 3.0, "times": 1}
    assert (entry.facts["version"], entry.facts["needs"], entry.facts["extra"]) == (3, "gradients", (1, 2))


def test_a_plug_ins_source_is_its_identity_and_packaged_code_has_none(plugin):
    before = registry.importance.entry("my-square").source
    plugin.write_text(METHOD + "\n")
    assert registry.importance.entry("my-square").source != before
    assert registry.importance.entry("magnitude-l1").source is None


def test_a_plug_in_loads_as_it_is_now(plugin, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert registry.importance.load("my-square")().power == 2.0
    before = plugin.stat()
    plugin.write_text(METHOD.replace("power: float = 2.0", "power: float = 5.0"))
    os.utime(plugin, ns=(before.st_atime_ns, before.st_mtime_ns))  # changed in the same second, to the same size
    assert registry.importance.load("my-square")().power == 5.0


def test_a_plug_in_is_compiled_by_its_own_rules(tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(METHOD + "\n\ndef count(of: int) -> int:\n    return of\n")
    registry.add_plugin(file)
    module = sys.modules[registry.importance.load("my-square").__module__]
    assert module.count.__annotations__ == {"of": int, "return": int}  # raybench's own files postpone annotations


def test_a_plug_in_that_fails_to_import_is_not_half_there(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(METHOD + "\nraise RuntimeError('on import')\n")
    registry.add_plugin(file)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on import"):
            registry.importance.load("my-square")


def test_a_function_has_its_keyword_parameters_less_the_fixed_ones(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(
        "from raybench.registry import model\n"
        '@model("a", args={"depth": 1}, norm="batch")\n'
        '@model("b", args={"depth": 2}, norm="none")\n'
        "def net(num_classes, in_channels, image_size, width=4, *, depth, wide=False, must): ...\n"
    )
    found = entries(file, "model")
    assert {name: dict(one.params) for name, one in found.items()} == {
        name: {"width": 4, "wide": False, "must": REQUIRED} for name in "ab"
    }
    assert [found[name].facts["args"]["depth"] for name in "ab"] == [1, 2]
    assert found["b"].facts["norm"] == "none"


def test_a_field_without_a_default_is_required(tmp_path):
    file = tmp_path / "needy.py"
    file.write_text('@importance("needy")\nclass Needy:\n    must: str\n    may: int = 1\n')
    assert entries(file)["needy"].params == {"must": REQUIRED, "may": 1}


def test_an_unknown_name_tells_the_nearest():
    with pytest.raises(UserError, match=r"unknown criterion 'magnitude-l3'\. Did you mean 'magnitude-l[12]'\? Known: "):
        registry.importance.entry("magnitude-l3")


def test_two_files_that_claim_one_name_collide(plugin, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(METHOD)
    registry.importance.add_file(other)
    with pytest.raises(UserError, match=r"criterion 'my-square' is defined twice: .*mine\.py.* and .*other\.py"):
        registry.importance.entries()


def test_a_plug_in_may_not_shadow_a_packaged_name(tmp_path):
    file = tmp_path / "shadow.py"
    file.write_text(METHOD.replace("my-square", "magnitude-l1"))
    registry.importance.add_file(file)
    with pytest.raises(UserError, match="'magnitude-l1' is defined twice"):
        registry.importance.entries()


def test_one_file_that_uses_a_name_twice_collides(tmp_path):
    file = tmp_path / "twice.py"
    file.write_text(METHOD.replace("my-cube", "my-square"))
    registry.importance.add_file(file)
    with pytest.raises(UserError, match=r"'my-square' is defined twice: .*\(MySquare\) and .*\(MyCube\)"):
        registry.importance.entries()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "found no file"),
        ("x = 1\n", "nothing is registered in it"),
        ("def f(:\n", r"plug\.py:1: not Python"),
        ("# importance\n\0", "not Python"),
        ('@importance("a" + NAME)\nclass A: ...\n', r"plug\.py:1: found .* expected a literal"),
    ],
)
def test_a_bad_plug_in_says_what_is_wrong(tmp_path, text, expected):
    file = tmp_path / "plug.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=expected):
        registry.add_plugin(file)
    assert registry.importance.entries()  # nothing of it stays


def test_an_entry_point_of_another_package(tmp_path, monkeypatch):
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "criterion.py").write_text(METHOD.replace("my-", "their-"))
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("their-square", "their_package.criterion:MySquare", "raybench.importance")
    monkeypatch.setattr(registry, "_entry_points", lambda: EntryPoints([point]))
    names = registry.Registry("importance", "raybench.methods.importance")
    assert names.entry("their-square").module == "their_package.criterion"
    assert names.entry("their-square").source is not None  # another package's version is not ours: the source tells
    assert "their-cube" not in names.entries()  # the point names one class
    assert "their_package.criterion" not in sys.modules
    assert names.load("their-square").__name__ == "MySquare"


def test_methods_lists_a_plug_in(plugin, capsys):
    assert main(["methods", "--format", "json"]) == 0
    rows = {(row["kind"], row["name"]): row for row in json.loads(capsys.readouterr().out)}
    assert {kind for kind, _ in rows} == {"criterion", "trained selection", "regularizer", "token reducer"}
    assert rows["criterion", "my-square"]["defaults"] == {"power": 2.0, "times": 1}
    assert rows["criterion", "bn-scale"]["requires"] == "batch-norm"
    assert rows["regularizer", "bn-scale"]["needs"] == "training"


def test_listing_verbs_import_neither_torch_nor_ray(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    code = textwrap.dedent("""
        import sys
        from raybench.cli.main import main
        for verb in ("methods", "models", "datasets"):
            for shape in ("table", "json"):
                assert main([verb, "--plugin", sys.argv[1], "--format", shape]) == 0
        assert main(["schema"]) == 0
        heavy = {"torch", "ray", "pandas", "pyarrow", "numpy", "ultralytics"} & set(sys.modules)
        assert not heavy, heavy
    """)
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, capture_output=True)


def test_a_parameter_without_a_default_must_be_given(tmp_path):
    file = tmp_path / "needy.py"
    file.write_text('@importance("needy")\nclass Needy:\n    must: str\n')
    registry.add_plugin(file)
    with pytest.raises(ValidationError, match="criterion 'needy' needs the parameter 'must'"):
        MethodAxis(name="needy")
    assert MethodAxis(name="needy", params={"must": "x"}).params == {"must": "x"}


WRONG = {  # method -> parameter -> value -> what is expected
    ("obd-c", "sides", "in"): "'out' or 'all'",
    ("obd-c", "sides", True): "'out' or 'all'",
    ("obd-c", "sides", "ouf"): "'out' or 'all'. Did you mean 'out'?",
    ("obd-c", "shares", "yes"): "true or false",
    ("obd-c", "shares", 1): "true or false",
    ("magnitude-l2", "normalize", "sum"): "'mean' or 'max'",
    ("cp", "points", 0): "at least 1",
    ("cp", "points", 2.5): "a whole number",
    ("thinet", "points", -3): "at least 1",
    ("magnitude-l2+group-norm", "alpha", -4.0): "at least 0",
    ("magnitude-l2+group-norm", "strength", "1e-3"): "a number",
    ("magnitude-l2+group-norm", "strength", float("nan")): "a finite number",
    ("magnitude-l2+group-norm", "strength", float("inf")): "a finite number",
    ("magnitude-l2+growing-reg", "growth", -1): "at least 0",
    ("magnitude-l2+growing-reg", "norm_scales", "no"): "true or false",
    ("bn-scale+bn-scale", "strength", -1): "at least 0",
}


@pytest.mark.parametrize(("method", "name", "value"), WRONG)
def test_a_value_that_a_parameter_does_not_take_is_refused_when_the_sweep_is_read(method, name, value):
    where = "regularizer_params" if "+" in method else "params"
    with pytest.raises(ValidationError) as caught:
        MethodAxis(name=method, **{where: {name: value}})
    assert f"found {value!r}, expected {WRONG[method, name, value]}" in str(caught.value)


def test_every_parameter_of_every_built_in_method_refuses_a_value_of_another_kind():
    for kind in (registry.importance, registry.regularizer):
        for entry in kind.entries().values():
            for name, default in entry.params.items():
                assert entry.misfit(name, default) is None
                assert entry.misfit(name, [default])
                assert entry.misfit(name, "another word")


def test_plugins_declare_words_types_and_limits_and_nothing_is_imported(tmp_path):
    file = tmp_path / "wordy.py"
    file.write_text(
        "from __future__ import annotations\nimport not_installed\n"
        '@importance("wordy", limits={"heat": (0.1, 10)})\nclass Wordy:\n'
        '    how: Literal["a", 2] = "a"\n    many: int | None = None\n    maybe: "Optional[float]" = None\n'
        "    heat: float = 1.0\n    what: Whatever = None\n"
    )
    (entry,) = read_entries("importance", file, None)
    right = {"how": ["a", 2], "many": [None, 3], "maybe": [None, 1, 0.5], "heat": [0.1, 3, 10], "what": ["x", 1, None]}
    wrong = {"how": ["b", True, 2.0], "many": ["3", 2.5, True], "maybe": ["x"], "heat": [0, -1, 10.5, "hot"]}
    assert [entry.misfit(name, value) for name, values in right.items() for value in values] == [None] * 13
    assert all(entry.misfit(name, value) for name, values in wrong.items() for value in values)
    assert entry.misfit("heat", 0) == "found 0, expected 0.1 to 10"


@pytest.mark.parametrize("limits", ['{"cold": (0, 1)}', '{"heat": 1}'])
def test_limits_of_no_parameter_or_without_two_ends_are_refused(limits, tmp_path):
    file = tmp_path / "wordy.py"
    file.write_text(f'@importance("wordy", limits={limits})\nclass Wordy:\n    heat: float = 1.0\n')
    with pytest.raises(UserError, match="limits: found"):
        list(read_entries("importance", file, None))
