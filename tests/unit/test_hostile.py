"""Every row of docs/hostile.md: the exit code, a sentence, and never a traceback."""

import os
from pathlib import Path

import pytest

import raybench
from raybench.cli.main import main
from raybench.reports.model_card import card_of
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.hostile_inputs import CASES, DOC, document


def make(case, folder):
    """The files of a case."""
    for name, content in case.files.items():
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "|":
            os.mkfifo(path)
        elif content.startswith("-> "):
            path.symlink_to(content.removeprefix("-> "))
        elif not name.endswith("/"):
            path.write_text(content)


def call(verb, *arguments):
    """The exit code of a command."""
    try:
        if verb == "load_pruned":
            raybench.load_pruned(*arguments)
        if verb == "card_of":
            store, trial_id = arguments
            print(card_of(Store(open_storage(store)).record(trial_id)))
            return 0
        return main([verb, *arguments])
    except raybench.UserError as error:
        print(error)
        return 2
    except SystemExit as stop:  # argparse
        return stop.code


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command[0]}: {case.what}")
@pytest.mark.timeout(60)
def test_it_gets_what_the_table_says(case, tmp_path, monkeypatch, capfd):
    make(case, tmp_path)
    monkeypatch.chdir(tmp_path)
    elsewhere = Path("/etc/hostname").exists()
    code = call(*case.command)
    out, err = capfd.readouterr()
    assert (code, "Traceback" in out + err) == (case.code, False), out + err
    assert case.says in out + err
    assert case.never not in out + err
    assert not set(out + err) & set("\x1b\x07\r\x00")
    assert max(map(len, (out + err).splitlines()), default=0) < 2000
    assert Path("/etc/hostname").exists() == elsewhere


def test_the_document_is_the_table():
    assert len(CASES) >= 60
    assert DOC.read_text() == document(), f"run python -m tests.hostile_inputs in {os.getcwd()}"
