"""What is told of long training stages."""

from __future__ import annotations

import logging

from raybench.progress.epochs import EPOCHS, report_epochs
from raybench.tasks.training import loop


def ended(epoch: int, left: float) -> None:
    logging.getLogger(EPOCHS).info("epoch %d of 9", epoch, extra={"left": left, "each": left / 9})


def test_an_epoch_is_told_with_what_is_left_and_nothing_outside() -> None:
    said: list[str] = []
    ended(1, 900)
    with report_epochs(said.append, every=0):
        ended(2, 800)
        ended(3, 70)
    ended(4, 60)
    assert said == ["epoch 2 of 9, about 13m 20s left", "epoch 3 of 9, about 1m 10s left"]


def test_a_long_stage_is_estimated_at_once_and_the_whole_run_beside_it() -> None:
    said: list[str] = []
    with report_epochs(said.append, in_all=lambda left, each: left + 9 * each):
        logging.getLogger(EPOCHS).info("epoch 1 of 9: 32 of 600 images", extra={"left": 90, "each": 10.0})
        logging.getLogger(EPOCHS).info("epoch 1 of 9: 64 of 600 images", extra={"left": 80, "each": 10.0})
    assert said == ["epoch 1 of 9: 32 of 600 images, about 1m 30s left in this stage, 3m 00s in all"]
    with report_epochs(said.append, every=0, in_all=lambda left, each: left + each):
        logging.getLogger(EPOCHS).info("epoch 9 of 9", extra={"left": 0.0, "each": 30.0})
    assert said[1:] == ["epoch 9 of 9, about 30s left in all"]


def test_an_epoch_says_how_far_it_is_only_where_it_is_long(monkeypatch) -> None:
    said: list[str] = []
    clock = iter([0.0, 1.0, 2.5, 3.0, 5.0])
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(clock))
    within = loop._WithinEpoch(0, 3, 100)
    with report_epochs(said.append, every=0):
        for _ in range(4):
            within.add(25)
    assert said == ["epoch 1 of 3: 50 of 100 images, about 12s left"]  # 5 s an epoch, 2.5 s of 15 s are over


def test_short_stages_stay_silent() -> None:
    said: list[str] = []
    with report_epochs(said.append):
        ended(1, 5)
    assert said == []


def test_training_tells_its_epochs(tmp_path, monkeypatch, capsys) -> None:
    from raybench.cli.main import main

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(report_epochs.__wrapped__, "__defaults__", (0.0, None))
    recipe = tmp_path / "r.yaml"
    stage = "{epochs: 2, batch_size: 256, optimizer: adamw, lr: 0.004}"
    recipe.write_text(f"base: {stage}\nsparsify: {stage}\nfinetune: {stage}\n")
    command = ["prune", "--model", "test-convnet", "--speedup", "2", "--recipe", str(recipe), "-o", str(tmp_path / "o")]
    assert main(command) == 0
    epoch_lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("  epoch ") and "loss" in line
    ]
    assert [line.partition(":")[0].strip() for line in epoch_lines] == ["epoch 1 of 2", "epoch 2 of 2"] * 2
    assert all("top1 " in line for line in epoch_lines)
