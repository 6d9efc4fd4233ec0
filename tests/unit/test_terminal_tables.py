"""Tables on a terminal: what doesn't fit is made to, names are never cut, and a pipe gets everything."""

from __future__ import annotations

import pytest

from raybench.cli.main import main
from raybench.cli.output import print_rows
from raybench.reports.text import cut_lines, lines, wrapped

ID = "93ae7d0d4271a395"
SWEEP = """\
name: axes
models: [cifar-resnet20, cifar-vgg16-bn]
datasets: digits
methods: [lamp, "cp(points=[5, 20])"]
speedups: [2, 4]
recipe: [quick, {extends: quick, finetune: {epochs: 9}}]
protocol: [raybench, pruningbench]
"""


@pytest.fixture
def printed(monkeypatch, capsys):
    """Print rows at a width, None in a pipe; the lines without what pads them."""

    def print_at(width: int | None, rows, columns) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width)) if width else monkeypatch.delenv("COLUMNS", raising=False)
        print_rows(rows, columns)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return print_at


def rows(count: int = 3) -> list[dict]:
    known = {"dataset": "digits", "model": "cifar-resnet20", "reason": None, "strategy": "protected-global"}
    return [{**known, "method": f"cp(points={n})", "seed": n, "id": f"{n}{ID[1:]}"} for n in range(count)]


COLUMNS = ["dataset", "model", "reason", "method", "strategy", "seed", "id"]


def test_what_all_rows_share_is_a_line(printed) -> None:
    assert printed(60, rows(), COLUMNS) == [
        "all rows: dataset digits; model cifar-resnet20; strategy",
        "  protected-global",
        "method        seed  id",
        *(f"cp(points={n})     {n}  {n}{ID[1:]}" for n in range(3)),
    ]


def test_columns_without_a_value_go_first(printed) -> None:
    head = printed(82, rows(), COLUMNS)[0].split()
    assert head == ["dataset", "model", "method", "strategy", "seed", "id"]


def test_one_row_is_a_list_and_so_are_rows_that_are_too_wide(printed) -> None:
    assert printed(40, rows(1), COLUMNS)[-1] == f"id        0{ID[1:]}"
    found = printed(24, rows(2), ["method", "seed", "id"])
    assert found[:4] == ["method  cp(points=0)", "seed    0", f"id      0{ID[1:]}", ""]


@pytest.mark.parametrize("width", [None, 200])
def test_with_room_nothing_changes(printed, width) -> None:
    assert printed(width, rows(), COLUMNS) == [line.rstrip() for line in lines(rows(), COLUMNS)]


def test_a_long_last_column_is_wrapped(printed) -> None:
    found = printed(40, [{"name": "a", "what": "some words that go on and on and on"}] * 2, ["name", "what"])
    assert found[0].split() == ["name", "what"]
    assert max(map(len, found)) <= 40


def test_wide_cells_are_cut_for_a_terminal_and_columns_that_dont_fit_counted() -> None:
    table = [{"id": ID, "text": "x" * 300, "more": "y" * 300}]
    assert max(map(len, cut_lines(table, list(table[0]), 60))) <= 60
    assert cut_lines(table, list(table[0]), 60)[1].startswith(ID)
    many = [{f"c{n}": n * 10**9 for n in range(40)}]
    assert cut_lines(many, list(many[0]), 40)[-1] == "and 36 more columns: a pipe and --format json have all"
    assert cut_lines([{"n": 1}], ["n"], 80) == lines([{"n": 1}], ["n"])


def test_names_are_never_broken() -> None:
    text = "differ: magnitude-l2+group-norm, /a/very/long/path-with-dashes"
    assert [word for line in wrapped(text, 12) for word in line.split()] == text.split()


@pytest.mark.parametrize("width", ["80", "120"])
def test_plan_shows_recipes_protocols_and_an_id_of_each(width, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", width)
    (tmp_path / "s.yaml").write_text(SWEEP)
    assert main(["plan", str(tmp_path / "s.yaml"), "--storage", str(tmp_path / "store")]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("recipe", "quick~", "protocol", "pruningbench", "first cell", "methods"))
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= int(width) or "raybench run" in max(printed.splitlines(), key=len)
    assert "cost: not known, since no cell of its models has ended" in printed


def test_plan_lists_cells_with_the_ids_that_only_takes(tmp_path, capsys) -> None:
    (tmp_path / "s.yaml").write_text(
        SWEEP.replace("recipe: [quick, {extends: quick, finetune: {epochs: 9}}]", "recipe: quick")
    )
    assert main(["plan", str(tmp_path / "s.yaml"), "--cells", "--storage", str(tmp_path / "store")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("cp(points=5)") == 8
    assert printed.count("  planned  ") == 24
    assert "protocol" in printed
    assert "recipe" not in printed.partition("shared stage")[0]


def test_query_fits_a_terminal(tmp_path, monkeypatch, capsys) -> None:
    from raybench.results.store import Store
    from raybench.storage.open import open_storage
    from tests.unit.result_rows import row, trial

    Store(open_storage(tmp_path)).publish(row(trial("lamp")))
    sql = "SELECT trial_id, trial FROM trials"
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["query", str(tmp_path), sql]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    monkeypatch.delenv("COLUMNS")
    assert main(["query", str(tmp_path), sql]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) > 500


@pytest.mark.parametrize(("verb", "columns"), [("prune", 80), ("prune", 100), ("search", 80)])
def test_help_fits_the_terminal_and_loses_no_word(verb, columns, monkeypatch, capsys) -> None:
    shown = {}
    for width in (columns, 1000):
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        shown[width] = capsys.readouterr().out
    assert max(map(len, shown[columns].splitlines())) <= columns
    assert shown[columns].split() == shown[1000].split()
