"""Sentences on a terminal are wrapped at words, in a pipe they stay whole; commands and names are never cut."""

from __future__ import annotations

import pytest

from raybench.cli.output import say

TEXT = "note: magnitude-l2+group-norm misses the speed-up\n  2 skipped: no BatchNorm in this network\n"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        ("", TEXT),
        ("200", TEXT),
        (
            "30",
            "note: magnitude-l2+group-norm\n  misses the speed-up\n  2 skipped: no BatchNorm in\n    this network\n",
        ),
        ("12", None),
    ],
)
def test_lines_are_wrapped_to_the_terminal(width, shown, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    say(TEXT.rstrip("\n"))
    printed = capsys.readouterr().out
    assert "magnitude-l2+group-norm" in printed
    assert printed.split() == TEXT.split()
    assert printed == shown or shown is None
