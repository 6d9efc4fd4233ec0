"""Sentences on a terminal are wrapped at words, in a pipe they stay whole; commands and names are never cut."""

from __future__ import annotations

import pytest

from raybench.cli.main import main
from raybench.cli.output import say
from raybench.cli.run import _conclude
from raybench.execution.run import SweepEnd
from raybench.reports.board_text import missing_text
from raybench.reports.leaderboard import Leaderboard
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import trial

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


def test_failed_and_skipped_cells_of_a_leaderboard_are_wrapped_in_the_same_way(tmp_path, capsys, monkeypatch) -> None:
    store = Store(open_storage(str(tmp_path)))
    for seed in (0, 1):
        store.publish(Record.skipped(trial(seed=seed), "no channel of this network has batch normalisation"))
    found = Leaderboard.read(store)
    for width in (30, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        say(missing_text(found, 10_000))
        assert capsys.readouterr().out == f"{missing_text(found, width)}\n"
        for words in (["leaderboard"], ["leaderboard", "--wide"]):
            assert main([words[0], str(tmp_path), *words[1:]]) == 0
            assert capsys.readouterr().out.endswith(f"{missing_text(found, width)}\n")
    assert missing_text(found, 60).splitlines()[-2:] == [
        "  2 x no channel of this network has batch normalisation",
        f"    [magnitude-l2; {found.skipped[0].trial_id[:8]}]",
    ]


def test_a_run_ends_with_the_reasons_of_skipped_cells(tmp_path, capsys) -> None:
    sweep = tmp_path / "s.yaml"
    sweep.write_text(
        "{name: s, datasets: digits, models: test-vit, methods: bn-scale, speedups: [2, 4], recipe: quick}\n"
    )
    for _ in range(2):  # what was skipped before is said again
        assert main(["run", str(sweep), "--local", "--storage", str(tmp_path / "r")]) == 0
        counts, reason, files = capsys.readouterr().out.splitlines()[-4:-1]
        assert counts == "2 cells: 2 skipped"
        assert reason == "  2 skipped: criterion bn-scale needs BatchNorm; test-vit normalises with layer norm"
        assert files == f"files: {tmp_path / 'r'}"


@pytest.mark.parametrize(("kinds", "rest"), [(5, []), (6, ["  1 skipped for 1 other reason"]),
                                             (7, ["  3 skipped for 2 other reasons"])])  # fmt: skip
def test_a_run_names_the_reasons_of_most_cells_and_counts_the_others(kinds, rest, capsys) -> None:
    times = [6, 5, 4, 3, 3, 2, 1] if kinds == 7 else [6, 5, 4, 3, 2, 1][:kinds]
    reasons = [f"reason {kind}" for kind, count in enumerate(times) for _ in range(count)]
    ids = [f"{place:016x}" for place in range(len(reasons))]
    end = SweepEnd("r", dict.fromkeys(ids, "skipped"), {}, 0, False, dict(zip(ids, reasons, strict=True)))
    assert _conclude(end) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{len(ids)} cells: {len(ids)} skipped"
    assert lines[:-2] == [*(f"  {count} skipped: reason {kind}" for kind, count in enumerate(times[:5])), *rest]
