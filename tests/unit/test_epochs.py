"""What is told of long training stages."""

from __future__ import annotations

import logging

from raybench.progress.epochs import EPOCHS, report_epochs


def ended(epoch: int, left: float) -> None:
    logging.getLogger(EPOCHS).info("epoch %d of 9", epoch, extra={"left": left})


def test_an_epoch_is_told_with_what_is_left_and_nothing_outside() -> None:
    said: list[str] = []
    ended(1, 900)
    with report_epochs(said.append, every=0):
        ended(2, 800)
        ended(3, 70)
    ended(4, 60)
    assert said == ["epoch 2 of 9, about 13 min left", "epoch 3 of 9, about 70 s left"]


def test_short_stages_stay_silent() -> None:
    said: list[str] = []
    with report_epochs(said.append):
        ended(1, 5)
    assert said == []


def test_training_tells_its_epochs(tmp_path, monkeypatch, capsys) -> None:
    from raybench.cli.main import main

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(report_epochs.__wrapped__, "__defaults__", (0.0,))
    recipe = tmp_path / "r.yaml"
    stage = "{epochs: 2, batch_size: 256, optimizer: adamw, lr: 0.004}"
    recipe.write_text(f"base: {stage}\nsparsify: {stage}\nfinetune: {stage}\n")
    command = ["prune", "--model", "test-convnet", "--speedup", "2", "--recipe", str(recipe), "-o", str(tmp_path / "o")]
    assert main(command) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  epoch ")]
    assert [line.partition(":")[0].strip() for line in told] == ["epoch 1 of 2", "epoch 2 of 2"] * 2
    assert all("top1 " in line for line in told)
