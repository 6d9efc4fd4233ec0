"""Early stopping: which cells end at a rung, their rows, what is ranked, resume and rerun, and what is refused."""

import json

import pytest

from raybench.errors import counted
from raybench.execution.run import run_sweep
from raybench.pipeline.early_stop import Rungs, StoppedEarly, bar, board_key
from raybench.plan.plan import plan_trials
from raybench.reports import stopped
from raybench.reports.board_text import as_text
from raybench.reports.leaderboard import COLUMNS, Leaderboard, Query, trials_of
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.early_stop import EarlyStop
from raybench.sweep.mistakes import SpecError
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from tests.kept import Kept

SWEEP = """
name: tiny
models: test-convnet
datasets: digits
methods: [magnitude-l2, random, bn-scale]
speedups: [3]
{more}
recipe:
  {block}
  base: {{epochs: 2, batch_size: 64, optimizer: adamw, lr: 0.004}}
  finetune: {{epochs: {epochs}, batch_size: 64, optimizer: adamw, lr: 0.002}}
"""
ON = "early_stop: {grace_period: 1, reduction_factor: 2}"


def file_of(folder, block=ON, epochs=4, more=""):
    (folder / "sweep.yaml").write_text(SWEEP.format(block=block, epochs=epochs, more=more))
    return folder / "sweep.yaml"


def trials_in(folder, **how):
    return resolve(load_sweep(file_of(folder, **how)))


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "rungs"),
    [(1, 2, 8, (1, 2, 4)), (5, 3, 100, (5, 15, 45)), (5, 3, 15, (5,)), (5, 3, 5, ()), (3, 10, 20, (3,))],
)
def test_rungs_stand_before_the_last_epoch(grace, factor, epochs, rungs):
    assert EarlyStop(grace_period=grace, reduction_factor=factor).rungs(epochs) == rungs


@pytest.mark.parametrize(
    ("value", "others", "factor", "needed"),
    [(1.0, [], 2, None), (1.0, [2.0], 3, None), (1.0, [2.0], 2, 2.0), (1.0, [2.0, 3.0], 2, 2.0),
     (2.0, [2.0], 2, 2.0), (5.0, [1, 2, 3, 4], 4, 4), (0.0, [1, 2, 3, 4, 5, 6], 3, 4)],
)  # fmt: skip
def test_the_best_of_so_many_go_on_and_equals_do(value, others, factor, needed):
    assert bar(value, others, factor) == needed


def test_only_cells_that_differ_in_the_method_alone_are_compared(tmp_path):
    axes = "strategies: [local, global]\nseeds: [0, 1]"
    found = {}
    for trial in trials_in(tmp_path, more=axes):
        found.setdefault(board_key(trial), []).append((trial.strategy, trial.seed, trial.importance.name))
    assert len(found) == 4
    assert all(len({cell[:2] for cell in cells}) == 1 and len(cells) == 3 for cells in found.values())
    other = trials_in(tmp_path, more=axes, epochs=5)[0]
    assert board_key(other) not in found


def state(epoch, value):
    return {"epoch": epoch, "curve": [{"epoch": n + 1, "top1": value - (n > 0)} for n in range(epoch)]}


def rungs_of(folder, trial, inner=None):
    return Rungs(inner or Kept(), open_storage(folder / "store"), trial, "top1")


def kept(content):
    checkpoint = Kept()
    checkpoint.save(content)
    return checkpoint


def test_a_decision_is_taken_once_whoever_comes_later(tmp_path):
    weak, strong, *_ = trials_in(tmp_path)
    rungs_of(tmp_path, weak).save(state(1, 50.0))  # alone: it goes on
    rungs_of(tmp_path, strong).save(state(1, 90.0))
    rungs_of(tmp_path, weak).save(state(1, 50.0))  # resumed, and decided before the other came
    rungs_of(tmp_path, strong).save(state(2, 90.0))
    with pytest.raises(StoppedEarly, match=r"^stopped at epoch 2 of 4 \(early_stop\)$") as caught:
        rungs_of(tmp_path, weak).save(state(2, 50.0))
    assert (caught.value.epoch, caught.value.decision.bar, caught.value.decision.value) == (2, 90.0, 50.0)
    with pytest.raises(StoppedEarly):  # killed after the decision, before its row
        rungs_of(tmp_path, weak, kept(state(2, 50.0))).load()
    assert rungs_of(tmp_path, weak, kept(state(3, 50.0))).load()["epoch"] == 3  # no rung


@pytest.mark.parametrize("content", [b"", b"[]", b'{"value": 99.0, "bar": null, "sha256": "0"}', b'{"value": "x"}'])
def test_a_damaged_rung_is_set_aside_and_is_no_number(content, tmp_path):
    weak, strong, *_ = trials_in(tmp_path)
    storage = open_storage(tmp_path / "store")
    key = f"rungs/{board_key(strong)}/1/{strong.trial_id}.json"
    storage.create(key, content)
    with pytest.warns(UserWarning, match="is damaged"):
        rungs_of(tmp_path, weak).save(state(1, 50.0))  # not stopped by a 99 that nobody measured
    assert not storage.has(key)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    run_sweep(file_of(folder), folder / "store", local=True)
    return folder


def rows_in(folder):
    return {row["method"]: row for row in Store(open_storage(folder / "store")).table().to_pylist()}


def test_a_stopped_cell_is_a_row_that_says_so_and_has_no_final_metric(ran):
    rows = rows_in(ran)
    ended = [row for row in rows.values() if row["stopped_epoch"]]
    whole = [row for row in rows.values() if row["status"] == "ok"]
    assert min(len(ended), len(whole)) > 0
    assert len(ended) + len(whole) == 3
    for row in ended:
        epoch = row["stopped_epoch"]
        assert (row["status"], row["reason"]) == ("skipped", f"stopped at epoch {epoch} of 4 (early_stop)")
        assert row["metric_final"] is row["artifact"] is row["latency_ms"] is None
        assert row["metric_val"] < row["stopped_below"]
        assert row["metric_pruned"] is not None
        assert row["speedup"] == pytest.approx(3, rel=0.05)
        assert [e["epoch"] for e in row["curve"] if e["stage"] == "finetune"] == list(range(1, epoch + 1))
    assert not open_storage(ran / "store").list("checkpoints")


def test_a_stopped_cell_is_not_run_again_and_a_new_run_decides_the_same(ran, tmp_path):
    trials, sweep = trials_in(ran), load_sweep(file_of(ran))
    plan = plan_trials(trials, sweep.resources, open_storage(ran / "store"))
    assert (plan.units, len(plan.done)) == ((), 3)
    before = rows_in(ran)
    run_sweep(file_of(tmp_path), tmp_path / "store", local=True)
    again = rows_in(tmp_path)
    for name in ("stopped_epoch", "stopped_below", "metric_final", "metric_val"):
        assert {m: row[name] for m, row in again.items()} == {m: row[name] for m, row in before.items()}


def test_cells_that_train_to_their_end_have_the_figures_of_a_sweep_without_the_block(ran, tmp_path):
    run_sweep(file_of(tmp_path, block=""), tmp_path / "store", local=True)
    plain = rows_in(tmp_path)
    assert all(row["status"] == "ok" and row["stopped_epoch"] is None for row in plain.values())
    for method, row in rows_in(ran).items():
        if row["status"] == "ok":
            assert row["metric_final"] == plain[method]["metric_final"]
        assert row["trial_id"] != plain[method]["trial_id"]
        assert row["select_key"] == plain[method]["select_key"]


def test_stopped_cells_are_not_ranked_and_are_named(ran):
    store = Store(open_storage(ran / "store"))
    found = Leaderboard.read(store)
    ended = {method for method, row in rows_in(ran).items() if row["stopped_epoch"]}
    assert not ended & {entry.method for board in found.boards for entry in board.entries}
    assert {one.partition(" ")[0] for one in found.boards[0].left_out} == ended
    text = as_text(found, 200)
    assert f"{counted(len(ended), 'cell')} skipped" in text
    assert "not ranked: " in text
    assert "(stopped: seed 0 at epoch " in text


@pytest.mark.parametrize("speedup", [None, "average"])
def test_a_method_with_a_stopped_seed_is_not_ranked_by_its_better_seeds(speedup, ran):
    store = Store(open_storage(ran / "store"))
    table = store.table(COLUMNS)
    rows = table.to_pylist()
    best = next(row for row in rows if row["status"] == "ok")
    other = {**best, "status": "skipped", "seed": 1, "stopped_epoch": 2, "metric_final": None, "trial_id": "f" * 16}
    more = type(table).from_pylist([*rows, other], schema=table.schema)
    found = Leaderboard.of(more, Query(speedup=speedup), trials_of(store))
    names = [entry.method for board in found.boards for entry in board.entries]
    assert best["method"] not in names
    reasons = [one for board in found.boards for one in board.left_out if one.startswith(best["method"])]
    assert reasons == ([f"{best['method']} (stopped: seed 1 at epoch 2)"] if speedup is None else reasons)
    assert stopped.finished(table).num_rows == sum(row["status"] == "ok" for row in rows)


def test_ids_are_those_of_before_without_the_block(tmp_path):
    trial = trials_in(tmp_path, block="")[0]
    assert "early_stop" not in json.dumps(trial.model_dump(mode="json"))
    assert trial.trial_id != trials_in(tmp_path)[0].trial_id


@pytest.mark.parametrize(
    ("block", "more", "message"),
    [
        ("early_stop: {grace_period: 4}", "", r"early_stop.grace_period: found 4, expected less than the 4 epochs"),
        ("early_stop: {grace_period: 0}", "", r"early_stop.grace_period: found 0, expected a number of at least 1"),
        ("early_stop: {reduction_factor: 2}", "", r"early_stop.grace_period: the key is missing"),
        ("early_stop: {grace_period: 1, reduction_factor: 1}", "", r"reduction_factor: found 1"),
        ("early_stop: {grace: 1}", "", r"grace"),
        ("early_stop: true", "", r"early_stop: found True|early_stop: found true"),
        (ON, "protocol: pruningbench", r"early_stop: found a block, expected none: protocol pruningbench"),
        (ON, "protocols: [raybench, pruningbench]", r"early_stop: found a block, expected none"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_name(block, more, message, tmp_path):
    with pytest.raises(SpecError, match=message):
        load_sweep(file_of(tmp_path, block=block, more=more))
