"""The tree of a sweep file by hand: nodes with lines, merging, scalars, writing; methods and recipes spread out."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.errors import SpecError, UserError
from raybench.sweep import reader
from raybench.sweep.mistakes import Mistakes
from raybench.sweep.nodes import HINT, YamlNode, as_yaml, merge, parse, scalar
from raybench.sweep.spread import spread_methods, with_plurals

FILE = Path("s.yaml")


def read(folder: Path, text: str) -> YamlNode:
    (folder / "s.yaml").write_text(text)
    return parse(folder / "s.yaml", FILE)


def lines(node: YamlNode):
    """Values and lines of a tree: (value, line)."""
    if isinstance(node.value, dict):
        return {key: lines(one) for key, one in node.value.items()}, node.line
    if isinstance(node.value, tuple):
        return [lines(one) for one in node.value], node.line
    return node.value, node.line


TEXT = """\
# a comment
a: 1
b:
  c: [x, 2.5,
      {d: null}]
  e:
    - f
    -
      g: true
"""


def test_every_node_knows_its_line(tmp_path) -> None:
    root = read(tmp_path, TEXT)
    b = {"c": ([("x", 4), (2.5, 4), ({"d": (None, 5)}, 5)], 4), "e": ([("f", 7), ({"g": (True, 9)}, 9)], 6)}
    assert lines(root) == ({"a": (1, 2), "b": (b, 3)}, 2)
    assert root.file == root.fields["b"].file == FILE
    assert root.plain() == {"a": 1, "b": {"c": ["x", 2.5, {"d": None}], "e": ["f", {"g": True}]}}


def test_nodes_are_asked_for_keys_items_and_paths(tmp_path) -> None:
    root = read(tmp_path, TEXT)
    a, b = root.fields["a"], root.fields["b"]
    assert (a.fields, b.fields["c"].fields, b.items, a.items) == ({}, {}, (b,), (a,))
    assert [one.plain() for one in b.fields["e"].items] == ["f", {"g": True}]
    assert (root.get("a"), root.get("z"), a.get("a")) == (a, None, None)
    c, d = b.fields["c"], b.fields["c"].value[2].fields["d"]
    cases = {
        (): (root, ()), ("a",): (a, ("a",)), ("a", 0): (a, ("a",)), ("a", 1): (a, ("a",)), ("a", 0, "x"): (a, ("a",)),
        ("b", "c", 2, "d"): (d, ("b", "c", 2, "d")), ("b", "c", 3): (c, ("b", "c")), ("b", "c", "x"): (c, ("b", "c")),
        ("b", "z", "c"): (b, ("b",)), ("z",): (root, ()), ("b", 0, "c"): (c, ("b", "c")), (0, "a"): (a, ("a",)),
    }  # fmt: skip
    for path, found in cases.items():
        assert root.find(path) == found
    assert a.replaced("new") == YamlNode("new", FILE, 2)


def test_a_child_is_merged_over_its_parent_key_by_key(tmp_path) -> None:
    parent, child = read(tmp_path, "a: {b: 1, c: 2}\nd: [1]\ne: {f: 1}\n"), read(tmp_path, "\na: {c: 3, g: 4}\nd: 5\n")
    merged = merge(parent, child)
    assert merged.plain() == {"a": {"b": 1, "c": 3, "g": 4}, "d": 5, "e": {"f": 1}}
    assert (merged.line, merged.get("a").line, merged.get("a").get("b").line, merged.get("e").line) == (2, 2, 1, 3)
    assert merge(parent.get("d"), child) is child
    assert merge(parent, child.get("d")) is child.get("d")
    assert parent.plain()["a"] == {"b": 1, "c": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-12", -12), ("+3", 3), ("007", 7), ("1.5", 1.5), ("1.", 1.0), (".5", 0.5), ("1e-4", 1e-4),
        ("-2E+3", -2000.0), ("+1e5", 100000.0), ("true", True), ("True", True), ("FALSE", False), ("false", False),
        ("null", None), ("Null", None), ("NULL", None), ("~", None), ("", ""), ("no", "no"), ("on", "on"),
        ("0x10", "0x10"), ("1_000", "1_000"), ("12:30", "12:30"), ("2026-11-28", "2026-11-28"), ("x y", "x y"),
        ("'1'", "1"), ("[1]", "[1]"), ("{", "{"), ("!!int x", "x"), ("!env X", "!env X"), ("e5", "e5"), ("1e", "1e"),
        ("tRue", "tRue"), ("[" * 900, "[" * 900), ("9" * 5000, "9" * 5000), ("nullx", "nullx"), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value, tmp_path) -> None:
    found = scalar(text)
    assert (found, type(found)) == (value, type(value))
    if len(text) < 100 and text and text[0] not in "[{!":
        assert read(tmp_path, f"a: {text}\n").plain() == {"a": value}


def test_numbers_without_end() -> None:
    assert (scalar(".inf"), scalar("-.inf"), scalar("+.inf")) == (float("inf"), -float("inf"), float("inf"))
    assert scalar(".nan") != scalar(".nan")
    assert (scalar(".Inf"), scalar("inf"), scalar("nan")) == (".Inf", "inf", "nan")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "s.yaml:1: found an empty file; expected a mapping of keys"),
        ("- a\n", "s.yaml:1: found a list; expected a mapping of keys"),
        ("\n\n5\n", "s.yaml:3: found 5; expected a mapping of keys"),
        ("a: 1\nb: 2\na: 3\n", "s.yaml:3: a: found the key twice; it is on line 1 already"),
        ("x:\n  a: 1\n  a: 3\n", "s.yaml:3: x.a: found the key twice; it is on line 2 already"),
        ("a: 1\n? [x]\n: 2\n", "s.yaml:2: found a list or mapping as a key; expected a name"),
        ("b:\n  ? {x: y}\n  : 2\n", "s.yaml:2: b: found a list or mapping as a key; expected a name"),
        ("a: !env X\n", f"s.yaml:1: a: found the tag !env, expected a value without one. {HINT}"),
        ("a:\n- 1\n- !!set {b}\n", f"s.yaml:3: a[1]: found the tag !!set, expected a value without one. {HINT}"),
        (f"a: !{'x' * 70} 1\n", f"s.yaml:1: a: found the tag !{'x' * 59}, expected a value without one. {HINT}"),
        ("a: &x 1\nb: *x\n", "s.yaml:2: not YAML: found the alias *x; expected values (use `extends` to share them)"),
        ("a: b: c\n", "s.yaml:1: not YAML: mapping values are not allowed here"),
        ("a: [1\nb: 2\n", "s.yaml:2: not YAML: while parsing a flow sequence expected ',' or ']', but got ':'"),
        ("a: \x01\n", "s.yaml: not YAML: unacceptable character #x0001: special characters are not allowed"),
        ("[" * 900, "s.yaml: not readable: it is nested too deeply"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_told_with_their_line(text, message, tmp_path) -> None:
    with pytest.raises(Mistakes) as error:
        read(tmp_path, text)
    assert str(error.value) == message


def test_all_mistakes_of_a_tree_are_told_together(tmp_path) -> None:
    with pytest.raises(Mistakes) as error:
        read(tmp_path, "a: !x 1\nb: !y 2\n")
    assert [(m.line, m.path) for m in error.value.mistakes] == [(1, ("a",)), (2, ("b",))]
    (tmp_path / "s.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(Mistakes) as error:
        parse(tmp_path / "s.yaml")
    assert str(error.value) == f"{tmp_path / 's.yaml'}: is not UTF-8 text: invalid start byte at byte 3"
    with pytest.raises(Mistakes, match=r"none\.yaml: can't be read: No such file or directory"):
        parse(tmp_path / "none.yaml")


def test_what_is_written_is_read_again_and_short_lists_stand_on_a_line(tmp_path) -> None:
    shared = [1, 2]
    fields = {
        "b": "no", "a": "1e-4", "t": "true", "n": None, "f": 1e-4, "z": "", "s": shared, "again": shared,
        "deep": {"x": {"y": [1]}, "q": 1}, "u": "grün", "long": ["x" * 40] * 4, "d": "2026-11-28",
    }  # fmt: skip
    text = as_yaml(fields)
    assert read(tmp_path, text).plain() == fields
    assert list(parse(tmp_path / "s.yaml").fields) == list(fields)
    assert "s: [1, 2]\nagain: [1, 2]\n" in text
    assert "u: grün\n" in text
    assert "b: no\na: '1e-4'\nt: 'true'\nn: null\n" in text
    assert "deep:\n  x:\n    y: [1]\n  q: 1\n" in text
    assert max(map(len, text.splitlines())) <= 135


def spread(folder: Path, text: str):
    return spread_methods(read(folder, text)).plain()


@pytest.mark.parametrize(
    ("methods", "found"),
    [
        ("lamp", "lamp"),
        ("[lamp, {name: cp}]", ["lamp", {"name": "cp"}]),
        ("cp(points=5)", [{"name": "cp", "params": {"points": 5}}]),
        ("'cp(points=[5, x])'", [{"name": "cp", "params": {"points": v}} for v in (5, "x")]),
        ("'cp(points=5)+gn(s=0.5, t=true)'", [
            {"name": "cp+gn", "params": {"points": 5}, "regularizer_params": {"s": 0.5, "t": True}},
        ]),
        ("{name: cp(a=1), params: {b: 2}}", [{"name": "cp", "params": {"b": 2, "a": 1}}]),
        ("{name: cp, params: {a: [1, 2], b: [3, 4], c: 5}}", [
            {"name": "cp", "params": {"a": a, "b": b, "c": 5}} for a in (1, 2) for b in (3, 4)
        ]),
        ("{name: a+b, params: {a: [1]}, regularizer_params: {s: [1, 2]}, seeds: 3}", [
            {"name": "a+b", "params": {"a": 1}, "regularizer_params": {"s": s}, "seeds": 3} for s in (1, 2)
        ]),
        ("{name: cp, params: {a: []}}", {"name": "cp", "params": {"a": []}}),
        ("{name: cp, params: 3}", {"name": "cp", "params": 3}),
        ("[3, {name: 4}]", [3, {"name": 4}]),
        ("'a()'", [{"name": "a"}]),
        ("'a(p=[])'", [{"name": "a", "params": {"p": ""}}]),
    ],
)  # fmt: skip
def test_methods_are_spread_out(methods, found, tmp_path) -> None:
    assert spread(tmp_path, f"methods: {methods}\nname: s\n") == {"methods": found, "name": "s"}
    assert spread(tmp_path, f"include: {{methods: {methods}}}\n") == {"include": {"methods": found}}
    assert spread(tmp_path, f"include: [{{seeds: 1}}, {{methods: {methods}}}]\n") == {
        "include": [{"seeds": 1}, {"methods": found}]
    }


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("cp(", "s.yaml:2: methods: found 'cp(', expected NAME(PARAMETER=VALUE, ...), such as cp(points=20) or "
                "lamp+group-norm(strength=0.001)"),
        ("{name: cp(a=1), params: {a: 2}}",
         "s.yaml:2: methods: found 'a' in 'cp(a=1)' and in params, expected it once"),
        ("{name: 'a+b(c=1)', regularizer_params: {c: 2}}",
         "s.yaml:2: methods: found 'c' in 'a+b(c=1)' and in regularizer_params, expected it once"),
    ],
)  # fmt: skip
def test_methods_that_contradict_themselves(methods, message, tmp_path) -> None:
    with pytest.raises(Mistakes) as error:
        spread(tmp_path, f"name: s\nmethods: {methods}\n")
    assert str(error.value) == message


def test_what_is_no_mapping_is_left_for_validation(tmp_path) -> None:
    node = YamlNode(3, FILE, 1)
    assert spread_methods(node) is node
    assert spread(tmp_path, "include: [3]\n") == {"include": [3]}
    root = read(tmp_path, "methods: [a, b]\n")
    assert spread_methods(root).get("methods") is root.get("methods")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("recipe: a", {"recipe": "a"}),
        ("recipe: [a, b]", {"recipes": ["a", "b"]}),
        ("recipes: a", {"recipes": ["a"]}),
        ("recipes: [a, b]", {"recipes": ["a", "b"]}),
        ("protocol: x", {"protocol": "x"}),
        ("protocol: [x, y]", {"protocols": ["x", "y"], "protocol": "x"}),
        ("protocols: [x, y]", {"protocols": ["x", "y"], "protocol": "x"}),
        ("protocols: x", {"protocols": ["x"], "protocol": "x"}),
        ("recipe: []", {"recipe": []}),
        ("recipes: []", {"recipes": []}),
        ("recipe: [a]\nprotocol: [x]", {"recipes": ["a"], "protocols": ["x"], "protocol": "x"}),
        ("name: s", {"name": "s"}),
    ],
)
def test_lists_of_recipes_and_protocols_are_axes(text, found, tmp_path) -> None:
    assert with_plurals(read(tmp_path, text + "\n")).plain() == found


def test_both_keys_of_an_axis_are_too_many(tmp_path) -> None:
    with pytest.raises(Mistakes) as error:
        with_plurals(read(tmp_path, "recipe: a\nrecipes: [b]\nprotocols: x\nprotocol: y\n"))
    assert str(error.value).splitlines() == [
        "2 mistakes", "s.yaml:1: recipe: found recipes beside it, expected one of the two",
        "s.yaml:4: protocol: found protocols beside it, expected one of the two",
    ]  # fmt: skip
    root = read(tmp_path, "name: s\n")
    assert with_plurals(root) is root


def test_variables_and_homes_in_paths(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("A_1", "one")
    monkeypatch.setenv("B", "$A_1")
    texts = {
        "x/y": "x/y", "$A_1/x": "one/x", "${A_1}x": "onex", "~/x": "/home/me/x", "~": "/home/me", "$B": "$A_1",
        "$A_1$A_1": "oneone", "a~b": "a~b", "$1": "$1", "5": "5",
    }  # fmt: skip
    for text, found in texts.items():
        assert reader.expanded(YamlNode(text, FILE, 4), tmp_path) == found
    for there in ("a$A_1", "~x"):
        (tmp_path / there).touch()
        assert reader.expanded(YamlNode(there, FILE, 4), tmp_path) == there
    assert reader.expanded(YamlNode("$A_1\0", FILE, 4), tmp_path) == "one\0"
    with pytest.raises(Mistakes) as error:
        reader.expanded(YamlNode("$NOPE_X/${NOPE_Y}/$NOPE_X", FILE, 4), tmp_path)
    messages = [str(one).partition(".")[2].partition(" Did")[0] for one in error.value.mistakes]
    each = "in '$NOPE_X/${NOPE_Y}/$NOPE_X', which isn't set."
    assert messages == [f"yaml:4: found ${name} {each}" for name in ("NOPE_X", "NOPE_Y")]
    with pytest.raises(Mistakes) as error:
        reader.expanded(YamlNode("~nobody-of-that-name/x", FILE, 4), tmp_path)
    assert str(error.value) == "s.yaml:4: found '~nobody-of-that-name/x', whose user isn't known here"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "my_password", "APIKEY_1"])
def test_a_variable_that_may_be_a_secret_stands_in_no_path(name, monkeypatch, tmp_path) -> None:
    """A stranger's sweep could send it to a server of theirs, as a part of the address."""
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(Mistakes) as error:
        reader.expanded(YamlNode(f"s3://theirs/${{{name}}}", FILE, 4), tmp_path)
    assert f"s.yaml:4: found ${name} in 's3://theirs/${{{name}}}', by its name a secret" in str(error.value)
    assert "hunter2" not in str(error.value)
    for harmless in ("KEYBOARD", "MONKEYS", "PASSAGE", "TOKENIZERS"):
        monkeypatch.setenv(harmless, "x")
        assert reader.expanded(YamlNode(f"${harmless}", FILE, 4), tmp_path) == "x"


def test_paths_are_made_absolute_in_every_place(tmp_path) -> None:
    text = """\
models: [a, {name: b, weights: w.pth}, {name: c, weights: trained}, {name: d, weights: pretrained}]
include: [{models: {name: e, weights: /abs/w}}, {seeds: 1}]
storage: s3://b/c
data_roots: {digits: d, other: /e, third: 5}
name: s
"""
    found = reader._anchored(read(tmp_path, text), Path("/f")).plain()
    assert found == {
        "models": ["a", {"name": "b", "weights": "/f/w.pth"}, {"name": "c", "weights": "trained"},
                   {"name": "d", "weights": "pretrained"}],
        "include": [{"models": {"name": "e", "weights": "/abs/w"}}, {"seeds": 1}],
        "storage": "s3://b/c", "data_roots": {"digits": "/f/d", "other": "/e", "third": 5}, "name": "s",
    }  # fmt: skip
    one = read(tmp_path, "models: {name: b, weights: w}\ninclude: {models: [{name: b, weights: v}]}\nstorage: x/y\n")
    assert reader._anchored(one, Path("/f")).plain() == {
        "models": {"name": "b", "weights": "/f/w"}, "include": {"models": [{"name": "b", "weights": "/f/v"}]},
        "storage": "/f/x/y",
    }  # fmt: skip
    odd = read(tmp_path, "data_roots: [1]\nstorage: 3\n")
    assert reader._anchored(odd, Path("/f")).plain() == {"data_roots": [1], "storage": 3}
    with pytest.raises(Mistakes) as error:
        reader._anchored(read(tmp_path, "storage: $NOPE_A\ndata_roots: {d: $NOPE_B}\n"), Path("/f"))
    assert [one.line for one in error.value.mistakes] == [1, 2]


def test_a_sweep_is_a_file_or_a_name_of_those_that_come_along(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = reader.SHIPPED / "quickstart.yaml"
    assert shipped.is_file()
    assert reader._file_of(Path("quickstart")) == shipped
    (tmp_path / "folder").mkdir()
    for there in ("x.yaml", "folder/quickstart"):
        with pytest.raises(SpecError, match=r"found no such file$"):
            reader._file_of(Path(there))
        (tmp_path / there).touch()
        assert reader._file_of(Path(there)) == Path(there)
    names = sorted(file.stem for file in reader.SHIPPED.glob("*.yaml"))
    with pytest.raises(UserError) as error:
        reader._file_of(Path("quickstar"))
    assert str(error.value) == (
        "quickstar: found no such file, nor a shipped sweep of that name. Did you mean 'quickstart'? "
        f"Shipped: {', '.join(names)}"
    )
    (tmp_path / "quickstart").touch()
    assert reader._file_of(Path("quickstart")) == Path("quickstart")


def test_recipes_of_a_folder_go_before_those_that_come_along(tmp_path) -> None:
    own = tmp_path / "recipes"
    own.mkdir()
    for name in ("quick.yaml", "mine.yaml", "no.txt"):
        (own / name).touch()
    known = reader.recipe_files(tmp_path)
    shipped = {file.stem: file for file in (reader.SHIPPED / "recipes").glob("*.yaml")}
    assert known == shipped | {"quick": own / "quick.yaml", "mine": own / "mine.yaml"}
    assert reader.recipe_files(own) == known
    (own / "recipes").mkdir()
    (own / "recipes/mine.yaml").touch()
    assert reader.recipe_files(own)["mine"] == own / "recipes/mine.yaml"
