"""Names and messages from files can't control a terminal, run in a spreadsheet, or add markup to Markdown."""

import io
import pickle
import sys
import traceback
import warnings

import pytest
from rich.text import Text

import raybench
from raybench.cli.main import main
from raybench.cli.printable_output import PrintableStream, printable_output
from raybench.errors import (
    NotSupported,
    RaybenchWarning,
    SpecError,
    StageError,
    UserError,
    handled_warnings,
    printable,
)
from raybench.models.foreign import ForeignError
from raybench.progress.console import SafeConsole
from raybench.reports.board_latex import escaped
from raybench.reports.model_card import card_of
from raybench.results.encoding import csv_bytes
from raybench.results.schema import RecordError
from raybench.results.store import Store
from raybench.storage.leases import LeaseLost
from raybench.storage.open import open_storage

from .result_rows import failure, row, trial

HOSTILE = [
    ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
    ("line\rother", "line\\rother"),
    ("\x9b31m", "\\x9b31m"),
    ("a\u202eb\u2066\u061c", "a\\u202eb\\u2066\\u061c"),
    ("\x00\x08\x7f", "\\x00\\x08\\x7f"),
    ("caf\udce9", "caf\\udce9"),
    ("plain é ± 日本\ttab\nline", "plain é ± 日本\ttab\nline"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_control_characters_become_escapes(text, shown):
    assert printable(text) == shown
    stream = io.StringIO()
    PrintableStream(stream).write(text)
    assert stream.getvalue() == shown


def test_a_console_keeps_its_own_colours_and_cursor_moves(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with printable_output():
        console = SafeConsole(force_terminal=True, color_system="standard")
        console.print(Text("\x1b[2Jname", style="bold"))
        console.show_cursor(False)
    assert stream.getvalue() == "\x1b[1m\\x1b[2Jname\x1b[0m\n\x1b[?25l"
    assert sys.stdout is stream


@pytest.fixture
def results(tmp_path):
    """A store whose rows hold hostile names and messages."""
    store = Store(open_storage(tmp_path))
    store.publish(row(trial(model="\x1b[31mnet|<b>"), device="=cmd()"))
    store.publish_attempt(failure(trial(seed=1), message="\x1b]0;owned\x07 and \r over"))
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["leaderboard"],
        ["leaderboard", "--format", "markdown"],
        ["query", "SELECT model, error_message FROM trials"],
        ["query", "SELECT model, error_message FROM trials", "--format", "json"],
        ["query", "SELECT model, error_message FROM trials", "--format", "csv"],
        ["show"],
        ["watch", "--once"],
    ],
)
def test_no_verb_prints_what_a_row_says_to_a_terminal(results, command, capfd):
    ids = list(Store(open_storage(results)).statuses())
    for one in ids if command == ["show"] else [None]:
        where = [one, "--results", str(results)] if one else [str(results)]
        main([command[0], *where, *command[1:]])
        out, err = capfd.readouterr()
        assert not set(out + err) & set("\x1b\x07\r\x9b"), command


def test_markdown_shows_names_as_they_are(results, capfd):
    main(["leaderboard", str(results), "--format", "markdown"])
    out = capfd.readouterr().out
    assert "net\\|\\<b\\>" in out
    assert "<b>" not in out


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd", "@SUM(A1)", "\tx", "\rx"])
def test_a_formula_in_csv_is_text(text):
    assert f"'{printable(text)}" in csv_bytes([{"name": text}]).decode()


def test_control_characters_in_csv_are_escapes():
    text = "a\x1b[31m\x07\u202eb\udcff"
    assert csv_bytes([{"name": text}]).decode() == "name\na\\x1b[31m\\x07\\u202eb\\udcff\n"


def test_a_warning_of_others_moves_no_cursor(monkeypatch):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
    with handled_warnings(lambda *_: False):
        warnings.warn("\x1b[31mred", stacklevel=1)
    assert shown == ["\\x1b[31mred"]


def test_latex_has_no_control_characters():
    assert escaped("a\x9b\u202eb\n\x7f") == "a\\textbackslash{}x9b\\textbackslash{}u202eb \\textbackslash{}x7f"


MARKUP = "m\x1b[2J\n# <script>alert(1)</script> [x](http://y)"


def test_conditions_and_notes_in_markdown_make_no_html_links_or_lines(tmp_path, capfd):
    one = row(trial(seed=3), metric_name=MARKUP, device=MARKUP)
    Store(open_storage(tmp_path)).publish(one)
    assert main(["leaderboard", str(tmp_path), "--format", "markdown"]) == 0
    out = capfd.readouterr().out
    assert "\\<script\\>" in out
    for part in ("<script>", " [x](", "\n# ", "\x1b"):
        assert part not in out


def test_the_card_of_a_network_has_no_html_links_or_lines_of_a_row():
    card = card_of(row(trial(seed=3), metric_name=MARKUP, device=MARKUP))
    for part in ("<script>", " [x](", "\n# <", "\x1b"):
        assert part not in card
    assert "\\<script\\>" in card
    assert " → " in card
    assert "-\\>" not in card


@pytest.mark.parametrize("value", ["-1.5", "+3e4", -2.5, "magnitude-l2+group-norm"])
def test_numbers_and_names_in_csv_stay(value):
    assert csv_bytes([{"name": value}]).decode() == f"name\n{value}\n"


@pytest.mark.parametrize("place", ["../../etc", "artifacts/../../x", "artifacts/.hidden", "stages/0123456789abcdef"])
def test_a_row_can_t_name_another_folder_as_its_network(tmp_path, place, capsys):
    one = row(trial(seed=3), artifact=place)
    Store(open_storage(tmp_path)).publish(one)
    assert main(["export", one["trial_id"], "--results", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "not written by raybench" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [UserError, SpecError, NotSupported, ForeignError, RecordError, LeaseLost])
@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_the_message_of_every_error_of_ours_is_printable_in_a_notebook_too(kind, text, shown):
    error = kind(text)
    assert str(error) == f"{error}" == shown
    assert str(pickle.loads(pickle.dumps(error))) == shown, "as a worker sends it"
    assert traceback.format_exception_only(error)[0].endswith(f": {shown}\n")


def test_the_message_of_a_stage_s_error_is_printable():
    assert str(StageError("base", "\x1b[2J")) == "\\x1b[2J"


def test_a_call_from_python_names_a_hostile_file_without_control_characters(tmp_path):
    (tmp_path / "s\x1b[2J.yaml").write_text("name: [")
    with pytest.raises(UserError) as caught:
        raybench.load_sweep(tmp_path / "s\x1b[2J.yaml")
    assert "s\\x1b[2J.yaml" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_warning_about_files_is_printable_in_a_notebook_too(tmp_path):
    (tmp_path / "results/cells").mkdir(parents=True)
    (tmp_path / "results/cells/\x1b[2J").write_text("")
    with pytest.warns(RaybenchWarning) as caught:
        assert len(raybench.load_results(tmp_path)) == 0
    assert "results/cells/\\x1b[2J: no name that raybench writes" in str(caught[0].message)
    line = warnings.formatwarning(caught[0].message, caught[0].category, "f", 1, "")
    assert "\x1b" not in line
