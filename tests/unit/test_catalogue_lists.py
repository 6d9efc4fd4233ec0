"""`raybench methods` and `raybench models`: what a terminal shows of one method, and of all models."""

from __future__ import annotations

import json

from raybench.cli.main import main


def test_one_method_is_printed_alone(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["methods", "bn-scale"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert [line.split(".")[0] for line in found if line.startswith("bn")] == [
        "bn-scale: criterion", "bn-scale: regularizer",
    ]  # fmt: skip
    assert "  typed     magnitude-l2+bn-scale(strength=1e-05)" in found
    assert max(map(len, found)) <= 100
    assert main(["methods", "cp", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["cp"]
    assert main(["methods", "tailor"]) == 2
    assert "unknown method 'tailor'. Did you mean 'taylor'? Known: bn-" in capsys.readouterr().err


def test_headings_of_models_have_no_marks_of_markdown(capsys) -> None:
    assert main(["models"]) == 0
    assert "`" not in capsys.readouterr().out
