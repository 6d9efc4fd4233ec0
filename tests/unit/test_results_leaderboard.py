"""Rankings worked by hand."""

import csv
import json
import statistics
import subprocess
import sys

import pytest

from raybench.cli.main import main
from raybench.errors import UserError
from raybench.reports.board_text import as_markdown, as_text
from raybench.reports.labels import unique_labels
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import RECIPE, failure, row, trial


@pytest.fixture
def store(tmp_path):
    return Store(open_storage(tmp_path / "results"))


def put(store, final, *method, **fields):
    """Publish a cell whose final metric is `final`."""
    store.publish(row(trial(*method, **fields), metric_final=final, metric_pruned=final - 30))


def ranking(board):
    return [(entry.rank, entry.method) for entry in board.entries]


def test_a_ranking_worked_by_hand(store):
    for seed, final in enumerate((96.0, 97.0, 98.0)):
        put(store, final, "lamp", seed=seed)
    put(store, 97.5, "fpgm")
    put(store, 90.0, "random")
    (board,) = Leaderboard.read(store).boards
    assert ranking(board) == [(1, "fpgm"), (2, "lamp"), (3, "random")]
    lamp = board.entries[1]
    assert (lamp.metric_base, lamp.metric_pruned, lamp.metric_final, lamp.delta) == (98.0, 67.0, 97.0, -1.0)
    assert lamp.spread == pytest.approx(statistics.stdev([96.0, 97.0, 98.0]))
    assert (lamp.n, lamp.seeds) == (3, (0, 1, 2))
    assert (board.entries[0].n, board.entries[0].spread) == (1, None)
    assert (lamp.params, lamp.params_kept, lamp.macs, lamp.latency_ms) == (135_000, 0.5, 20_500_000, 1.0)


def test_tracks_are_ranked_apart_unless_all_is_asked(store):
    put(store, 97.0, "lamp")
    put(store, 98.0, "lamp", "group-norm")
    put(store, 96.0, "fpgm")
    boards = {board.track: ranking(board) for board in Leaderboard.read(store).boards}
    assert boards == {"criteria": [(1, "lamp"), (2, "fpgm")], "regularizers": [(1, "lamp+group-norm")]}
    (both,) = Leaderboard.read(store, Query(track="all")).boards
    assert ranking(both) == [(1, "lamp+group-norm"), (2, "lamp"), (3, "fpgm")]
    (only,) = Leaderboard.read(store, Query(track="regularizers")).boards
    assert ranking(only) == [(1, "lamp+group-norm")]


def test_a_ratio_is_no_speedup(store):
    """Half of the channels removed saves whatever it saves: a board of its own, missing nothing, in no average."""
    put(store, 97.0, "lamp")
    for name, final in (("lamp", 95.0), ("fpgm", 96.0)):
        store.publish(row(trial(name, ratio=0.5), metric_final=final, speedup=3.2))
    two, half = Leaderboard.read(store).boards
    assert (two.speedup, two.ratio, ranking(two)) == (2.0, None, [(1, "lamp")])
    assert (half.speedup, half.ratio, ranking(half)) == (None, 0.5, [(1, "fpgm"), (2, "lamp")])
    assert [entry.reason for entry in half.entries] == [None, None]
    assert "digits, ratio 0.5, protected-global" in as_text(Leaderboard.read(store), 140)
    (average,) = Leaderboard.read(store, Query(speedup="average")).boards
    assert (ranking(average), average.left_out) == ([(1, "lamp")], ())
    with pytest.raises(UserError, match=r"no results with speed-up 3x: this store has 2x$"):
        Leaderboard.read(store, Query(speedup=3.0))


def test_equal_metrics_share_a_rank_in_an_order_that_does_not_change(store):
    for name in ("taylor", "fpgm", "lamp"):
        put(store, 97.0, name)
    put(store, 96.0, "random")
    (board,) = Leaderboard.read(store).boards
    assert ranking(board) == [(1, "fpgm"), (1, "lamp"), (1, "taylor"), (4, "random")]


def test_an_average_covers_only_what_is_complete_at_every_speedup(store):
    for seed, (two, four) in enumerate([(97.0, 95.0), (98.0, 94.0)]):
        put(store, two, "lamp", speedup=2.0, seed=seed)
        put(store, four, "lamp", speedup=4.0, seed=seed)
    put(store, 99.0, "fpgm", speedup=2.0)
    put(store, 96.0, "taylor", speedup=2.0, seed=0)
    put(store, 94.0, "taylor", speedup=4.0, seed=0)
    put(store, 99.0, "taylor", speedup=2.0, seed=1)  # without its 4x this seed would lift the average
    (board,) = Leaderboard.read(store, Query(speedup="average")).boards
    assert ranking(board) == [(1, "lamp"), (2, "taylor")]
    lamp, taylor = board.entries
    assert (lamp.metric_final, lamp.spread, lamp.n) == (96.0, 0.0, 2)  # 96 and 96, one average a seed
    assert (taylor.metric_final, taylor.n) == (95.0, 1)
    assert board.left_out == ("fpgm (lacks 4x)",)


def test_protocols_recipes_and_datasets_are_never_mixed(store):
    long = RECIPE.model_copy(update={"name": "long"})
    put(store, 97.0, "lamp")
    put(store, 98.0, "lamp", protocol="pruningbench")
    put(store, 98.5, "fpgm", recipe=long.model_copy(update={"calibration_images": 9}))
    put(store, 99.0, "lamp", model="vit-small")
    boards = Leaderboard.read(store).boards
    assert len(boards) == 4
    assert all(len(board.entries) == 1 for board in boards)
    assert [b.recipe for b in Leaderboard.read(store, Query(model="cifar-resnet20", protocol="raybench")).boards] == [
        "long",
        "quick",
    ]


def test_settings_that_differ_are_rows_of_their_own_and_say_so(store):
    put(store, 97.0, params={"p": 1})
    put(store, 96.0, params={"p": 2})
    longer = RECIPE.model_copy(update={"finetune": RECIPE.finetune.model_copy(update={"epochs": 9})})
    put(store, 95.0, "lamp")
    put(store, 94.0, "lamp", recipe=longer)
    (board,) = Leaderboard.read(store).boards
    assert [entry.method for entry in board.entries] == [
        "magnitude-l2(p=1)",
        "magnitude-l2(p=2)",
        "lamp (finetune.epochs=2)",
        "lamp (finetune.epochs=9)",
    ]


def test_what_follows_from_the_method_is_no_setting():
    rows = [{"config_id": key, "method": "fpgm", "trial_id": key} for key in ("plain", "ridge")]
    trials = {
        "plain": {"importance": {"name": "fpgm", "params": {}, "seeded": False}},
        "ridge": {"importance": {"name": "fpgm", "params": {"repair": "ridge"}, "seeded": True}},
    }
    assert unique_labels(rows, lambda ids: trials, ["method"]) == {"plain": "fpgm", "ridge": "fpgm(repair=ridge)"}


def test_by_strategy_ranks_all_strategies_together(store):
    put(store, 97.0, "lamp", strategy="global")
    put(store, 95.0, "lamp", strategy="local")
    put(store, 99.0, "fpgm", strategy="local")
    assert len(Leaderboard.read(store).boards) == 2
    found = Leaderboard.read(store, Query(by="strategy"))
    assert [(e.method, e.strategy) for e in found.boards[0].entries] == [
        ("fpgm", "local"),
        ("lamp", "global"),
        ("lamp", "local"),
    ]
    assert "mean over the 1 method with a result for every strategy: global 97.00, local 95.00" in as_text(found, 120)


def test_failed_and_skipped_cells_are_counted_with_their_reasons(store):
    put(store, 97.0, "lamp")
    for seed in (1, 2):
        store.publish_attempt(failure(trial("lamp", seed=seed), stage="finetune", message="out of memory\nmore"))
    store.publish(Record.skipped(trial("bn-scale"), "no batch norm"))
    found = Leaderboard.read(store)
    assert [(loss.count, loss.reason, loss.methods) for loss in found.failed] == [
        (2, "finetune: RuntimeError: out of memory", ("lamp",))
    ]
    assert [(loss.count, loss.reason, loss.methods) for loss in found.skipped] == [(1, "no batch norm", ("bn-scale",))]
    text = as_text(found, 100)
    assert "2 cells failed" in text
    assert "1 x no batch norm [bn-scale; " in text


def test_a_dash_means_that_a_value_does_not_apply(store):
    store.publish(row(trial("lamp"), latency_ms=None, timing_reason="shared device"))
    store.publish(row(trial("fpgm"), speedup=2.2, reason="granularity"))
    (board,) = Leaderboard.read(store).boards
    text = as_text(Leaderboard.read(store), 200)
    lines = {line.split()[1]: line.split() for line in text.splitlines() if line.startswith("1 ")}
    assert lines["lamp"][-3:] == ["n/m", "0.25", "-"]
    assert lines["fpgm"][-4:] == ["2.20*", "1", "0.25", "-"]
    assert "n/m: lamp: not measured: shared device" in text
    assert (
        "* fpgm: misses the speed-up by more than 0.5 %: granularity (a single step is too large to come closer)"
        in text
    )
    assert board.entries[0].reg_time_s is None


def test_a_table_says_that_it_mixes_schedules_and_its_conditions(store):
    put(store, 97.0, "lamp", schedule="progressive")
    put(store, 96.0, "taylor", schedule="iterative")
    text = as_text(Leaderboard.read(store), 100)
    assert "schedules differ: iterative: taylor; progressive: lamp" in text
    assert "device: cpu (a processor), timed alone" in text
    assert "raybench 0.1.0" in text
    assert "cells: 2; seeds: 0" in text


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_tables_keep_within_the_terminal(store, width):
    for name, regularizer in (("magnitude-l2", "group-norm"), ("bn-scale", "group-lasso")):
        for seed in (0, 1):
            put(store, 96.0 + seed, name, regularizer, seed=seed)
    text = as_text(Leaderboard.read(store), width)
    assert max(map(len, text.splitlines())) <= width
    assert "base 98.00" in text or " base " in text  # in the title when its column had to go


def test_markdown_has_every_column(store):
    put(store, 97.0, "lamp")
    lines = as_markdown(Leaderboard.read(store)).splitlines()
    head = next(line for line in lines if line.startswith("| #"))
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "#", "method", "base (%)", "pruned (%)", "final (%)", "n", "Δ (pts)", "params (M)", "kept (%)", "MACs (M)",
        "speedup (x)", "latency (ms)", "step (s)", "reg (s)",
    ]  # fmt: skip


def test_names_that_are_not_there_are_told_with_the_nearest(store, tmp_path):
    put(store, 97.0, "lamp")
    with pytest.raises(UserError, match=r"no results with model 'cifar-resnet21'. Did you mean 'cifar-resnet20'"):
        Leaderboard.read(store, Query(model="cifar-resnet21"))
    with pytest.raises(UserError, match=r"no results with speed-up 3x: this store has 2x$"):
        Leaderboard.read(store, Query(speedup=3.0))
    with pytest.raises(UserError, match="no results in"):
        Leaderboard.read(Store(open_storage(tmp_path / "nothing")))
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json", "parquet"])
def test_the_verb_writes_every_format(store, form, tmp_path):
    import pyarrow.parquet as pq

    put(store, 97.0, "lamp")
    put(store, 96.0, "fpgm")
    file = tmp_path / "out"
    assert main(["leaderboard", store.storage.url, "--speedup", "2x", "--format", form, "-o", str(file)]) == 0
    if form == "parquet":
        assert pq.read_table(file)["method"].to_pylist() == ["lamp", "fpgm"]
    elif form == "json":
        assert [r["method"] for r in json.loads(file.read_text())["rows"]] == ["lamp", "fpgm"]
    elif form == "csv":
        assert [line["method"] for line in csv.DictReader(file.open())] == ["lamp", "fpgm"]
    else:
        assert file.read_text().index("lamp") < file.read_text().index("fpgm")


def test_the_verb_imports_neither_torch_nor_ray(store):
    put(store, 97.0, "lamp")
    code = (
        "import sys; from raybench.cli.main import main;"
        f"assert main(['leaderboard', {store.storage.url!r}]) == 0;"
        "print([m for m in ('torch', 'ray', 'torch_pruning', 'pydantic') if m in sys.modules])"
    )
    lines = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert lines[-1] == "[]"


def test_exports_carry_the_method_with_its_parameters(store, tmp_path):
    put(store, 97.0, "cp", params={"points": 5})
    put(store, 96.0, "lamp", "group-norm")
    import pyarrow.parquet as pq

    made = {}
    for ending in ("csv", "json", "parquet"):
        file = tmp_path / f"b.{ending}"
        assert main(["leaderboard", str(tmp_path / "results"), "-o", str(file)]) == 0
        made[ending] = file
    labels = {"cp(points=5)", "lamp+group-norm"}
    assert {line["label"] for line in csv.DictReader(made["csv"].open())} == labels
    assert {line["label"] for line in json.loads(made["json"].read_text())["rows"]} == labels
    assert set(pq.read_table(made["parquet"])["label"].to_pylist()) == labels
