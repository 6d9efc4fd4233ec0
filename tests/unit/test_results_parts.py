"""The parts of the results by hand: rows from any row group, checksums, ids, means of durations, messages."""

from __future__ import annotations

import hashlib
import io
import json
import math

import pytest

from raybench.errors import UserError
from raybench.results import encoding, merging, seal, timings
from raybench.results.compaction import compact
from raybench.results.encoding import csv_bytes, encode
from raybench.results.files import Files, StoreWarning
from raybench.results.layout import attempt_key, cell_key, last_attempts, parse, partition
from raybench.results.merging import merge
from raybench.results.rows import named, wrong_rows
from raybench.results.schema import SCHEMA_VERSION, Record, RecordError, config_id, identity, row_sha256
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import MEASURED, failure, row, trial


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(open_storage(tmp_path / "store"))


def test_a_row_is_found_in_any_row_group(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(encoding, "ROW_GROUP", 2)
    rows = [row(trial(seed=seed), metric_final=90.0 + seed) for seed in range(7)]
    for one in rows:
        store.publish(one)
    compact(store)
    (key,) = store.storage.list("results/cells")
    for number, one in enumerate(rows):
        fresh = Files(store.storage)
        (found,) = fresh.row(parse(key), one["trial_id"], ["metric_final", "trial_id"]).to_pylist()
        assert found == {"metric_final": 90.0 + number, "trial_id": one["trial_id"]}
        assert Store(store.storage).record(one["trial_id"])["metric_final"] == 90.0 + number
    with store.files.open(key) as parquet:
        assert [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)] == [2, 2, 2, 1]


def test_the_checksum_of_a_row_is_that_of_its_canonical_json() -> None:
    with_nulls = {"b": 1, "a": {"y": None, "x": (1, {"z": None, "w": "é"})}, "none": None, "row_sha256": "0" * 64}
    expected = hashlib.sha256(b'{"a":{"x":[1,{"w":"\\u00e9"}]},"b":1}').hexdigest()
    assert row_sha256(with_nulls) == expected
    record = row()
    assert record["row_sha256"] == row_sha256(record) == row_sha256(dict(record))


def test_ids_of_a_row_are_its_trials() -> None:
    own = trial(regularizer="group-norm", seed=3, base_seed=1, strategy="local", round_to=2)
    found = identity(own)
    assert json.loads(found.pop("trial")) == json.loads(own.model_dump_json())
    assert found == {
        "dataset": "digits", "task": "classification", "model": "cifar-resnet20", "method": "magnitude-l2+group-norm",
        "strategy": "local", "protocol": "raybench", "schedule": "progressive", "seed": 3, "base_seed": 1,
        "kind": "channels", "round_to": 2, "processes": 1, "trial_id": own.trial_id, "config_id": config_id(own),
        "importance": "magnitude-l2",
        "regularizer": "group-norm", "recipe": "quick", "speedup_target": 2.0, "ratio": None,
        "params_target": None, "latency_target_ms": None, "latency_target": None,
        "transfer": None, "transfer_from": None, "depth": 1.0, "image_size": None,
        "base_key": own.base_key, "sparsify_key": own.sparsify_key, "select_key": own.select_key,
    }  # fmt: skip
    named_otherwise = own.recipe.model_copy(update={"name": "other"})
    same = own.model_copy(update={"seed": 0, "base_seed": 0, "speedup": 4.0, "recipe": named_otherwise})
    assert config_id(same) == config_id(own)
    for change in ({"strategy": "global"}, {"round_to": 4}, {"dataset_params": {"a": 1}}, {"regularizer": None}):
        assert config_id(own.model_copy(update=change)) != config_id(own)
    assert identity(trial())["regularizer"] is identity(trial())["sparsify_key"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric_final": None}, "no metric_final"), ({"latency_ms": None}, r"no latency_ms \(or timing_reason\)"),
        ({"step_time_s": None}, r"no step_time_s \(or timing_reason\)"), ({"speedup": math.nan}, "a finite number"),
        ({"params": 1.5}, "params: found 1.5 .float., expected int"), ({"params": True}, "expected int"),
        ({"exclusive": 1}, "expected bool"), ({"device": 3}, "expected string"), ({"layers": "x"}, "sequence"),
        ({"layers": {"layer": "x"}}, "found dict, expected a sequence"), ({"layers": [1]}, "expected a mapping"),
        ({"layers": [{"lawyer": "x"}]}, r"layers\[0\] has no field 'lawyer'\. Did you mean 'layer'"),
        ({"curve": [{"epoch": "1"}]}, r"curve\[0\]\.epoch: found '1'"), ({"metrik": 1}, "no column 'metrik'"),
    ],
)  # fmt: skip
def test_a_row_that_can_not_be_is_refused(changes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        row(**changes)


def test_rows_without_timings_have_a_reason_and_regularizers_a_time() -> None:
    untimed = {"latency_ms": None, "step_time_s": None, "timing_reason": "the device was shared"}
    assert row(**untimed)["latency_ms"] is None
    with pytest.raises(RecordError, match="no reg_time_s"):
        row(trial(regularizer="group-norm"), reg_time_s=None)
    assert row(reg_time_s=None)["reg_time_s"] is None
    nested = row(curve=[{"stage": "base", "epoch": 1, "lr": 0.1, "train_loss": math.inf, "metric": 1}])
    assert nested["curve"][0]["train_loss"] == math.inf  # a loss that diverged is shown as it is
    assert type(nested["curve"][0]["metric"]) is float


def test_derived_columns() -> None:
    found = row(metric_base=90.0, metric_final=92.5, params=30, params_base=120)
    assert (found["delta"], found["params_kept"]) == (2.5, 0.25)
    assert row(delta=1.0)["delta"] == 1.0
    assert json.loads(row(kept={"b": [3, 1], "a": (2,)})["kept"]) == {"a": [2], "b": [3, 1]}
    assert row(kept={"b": [3], "a": (2,)})["kept"] == '{"a":[2],"b":[3]}'
    bare = Record.failed(trial(), stage="base", error_type="E", error_message="m", metric_base=1.0, params=3, attempt=4)
    assert (bare["delta"], bare["params_kept"], bare["attempt"], bare["stage"]) == (None, None, 4, "base")
    assert Record.failed(trial(), stage="b", error_type="E", error_message="m", params=3, params_base=0)["params"] == 3


def timed(**values):
    return dict.fromkeys(timings.TIMED) | {"dataset": "d", "model": "m", "recipe": "r", "protocol": "p"} | values


def test_mean_durations_by_what_they_depend_on() -> None:
    cell = {"seconds_prune": 1.0, "seconds_finetune": 2.0, "seconds_measure": 4.0}
    rows = [
        timed(seconds_base=2.0, seconds_select=1.0, importance="a", **cell),
        timed(seconds_base=6.0, seconds_select=3.0, importance="a", **cell | {"seconds_finetune": 4.0}),
        timed(seconds_select=9.0, seconds_sparsify=5.0, importance="b", resumed_from=3, **cell),
        timed(seconds_base=8.0, model="n", resumed_from=0, **cell),
        timed(seconds_base=10.0, importance="a", **cell | {"seconds_measure": None}),
    ]
    assert timings.mean_seconds(rows) == {
        ("base", "d", "m", "r"): 6.0, ("base", "d", "n", "r"): 8.0, ("cell", "d", "m", "r"): 8.0,
        ("cell", "d", "n", "r"): 7.0, ("select", "d", "m", "r", "p", "a"): 2.0,
        ("select", "d", "m", "r", "p", "b"): 9.0, ("sparsify", "d", "m", "r"): 5.0,
    }  # fmt: skip
    assert list(timings.mean_seconds(rows)) == sorted(timings.mean_seconds(rows))


@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 1), (16, 16), (17, 9), (32, 16), (160, 16), (161, 15)])
def test_a_sample_has_every_part_and_few_cells_evenly(count: int, kept: int) -> None:
    where = partition("d", "m")
    cells = [parse(f"{where}/{number:016x}.parquet") for number in range(count)]
    parts = [parse(f"{where}/part-{number:016x}.parquet") for number in range(3)]
    other = parse(f"{partition('d', 'n')}/{5:016x}.parquet")
    found = timings.sample([*cells, *parts, other])
    assert [f for f in found if f.kind == "part"] == parts
    assert other in found
    chosen = [f for f in found if f.kind == "cell" and f is not other]
    assert len(chosen) == kept
    assert chosen == cells[:: max(1, -(-count // 16))]


def test_names_of_files_say_what_they_hold() -> None:
    one = "0123456789abcdef"
    names = {
        f"results/cells/dataset=d/model=m/{one}.parquet": ("cell", one, "ok", 0),
        f"results/cells/dataset=d/model=m/{one}.skipped.parquet": ("cell", one, "skipped", 0),
        f"results/cells/dataset=d/model=m/part-{one}.parquet": ("part", "", "", 0),
        f"results/attempts/{one}-12.parquet": ("attempt", one, "failed", 12),
    }
    for key, expected in names.items():
        found = parse(key)
        assert (found.key, found.kind, found.trial_id, found.status, found.attempt) == (key, *expected)
    for name in (f"{one}.parque", f"x{one}.parquet", f"{one[:15]}.parquet", f"part-{one}x.parquet", "notes.txt"):
        assert parse(f"results/cells/dataset=d/model=m/{name}") is None
    for name in (f"{one}-0.parquet", f"{one}-01.parquet", f"{one}.parquet", f"{one}-1.txt", f"part-{one}.parquet"):
        assert parse(f"results/attempts/{name}") is None
    assert cell_key(row()) == f"{partition('digits', 'cifar-resnet20')}/{trial().trial_id}.parquet"
    files = [parse(attempt_key(f"{t:016x}", n)) for t, n in ((2, 1), (1, 9), (1, 10), (1, 2), (3, 1))]
    assert [(f.trial_id[-1], f.attempt) for f in last_attempts(files, {f"{3:016x}"})] == [("1", 10), ("2", 1)]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_a_seal_is_checked_piece_by_piece(monkeypatch, chunk: int) -> None:
    data = encode([row()])
    monkeypatch.setattr(seal, "_CHUNK", chunk)
    assert seal.broken_seal(io.BytesIO(data)) is None
    where = data.index(seal.SEAL_KEY)
    for place in (4, where - 1, where + 90, len(data) - 9):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert seal.broken_seal(io.BytesIO(damaged))
    for cut in (data[:-200], data[100:]):
        assert seal.broken_seal(io.BytesIO(cut))
    assert "cut short" in seal.broken_seal(io.BytesIO(b""))
    assert seal.broken_seal(io.BytesIO(data.replace(seal.SEAL_KEY, b"raybench.sha25x"))) == "its checksum is missing"


def test_what_rows_a_file_has_checked_is_marked() -> None:
    own = row()
    data = encode([own])
    mark = seal.rows_mark(own["trial_id"], "ok")
    assert mark == f"{own['trial_id']} ok".encode()
    assert seal.rows_checked(io.BytesIO(data), mark)
    assert not seal.rows_checked(io.BytesIO(data), seal.rows_mark(own["trial_id"], "skipped"))
    several = encode([own, row(trial(seed=1))])
    assert seal.rows_checked(io.BytesIO(several), seal.rows_mark())
    wrong = encode([dict(own) | {"metric_final": 1.0}, row(trial(seed=1))])
    assert not seal.rows_checked(io.BytesIO(wrong), seal.rows_mark())
    assert not seal.newer(io.BytesIO(data))
    assert seal.newer(
        io.BytesIO(data.replace(f"raybench.schema\x18\x01{SCHEMA_VERSION}".encode(), b"raybench.schema\x18\x019"))
    )


def test_wrong_rows_are_found_and_named(monkeypatch) -> None:
    from raybench.results import rows as module
    from raybench.results.arrow import to_table

    good = [row(trial(seed=seed)) for seed in range(8)]
    bad = [dict(one) | {"metric_final": 1.0} if place in (1, 4, 6) else one for place, one in enumerate(good)]
    old = dict(good[0]) | {"row_sha256": None, "metric_final": 1.0}
    for at_once in (1, 3, 1024):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        assert wrong_rows(to_table([*bad, old])) == [1, 4, 6]
    table = to_table(good)
    assert wrong_rows(table) == wrong_rows(table.drop(["row_sha256"])) == []
    ids = [one["trial_id"] for one in good]
    assert named(table, [2]) == f"the row of {ids[2]} has other columns than its checksum is of"
    assert named(table, [0, 1]) == f"the rows of {ids[0]}, {ids[1]} have other columns than their checksums are of"
    assert f"{', '.join(ids[:5])} and 2 more have" in named(table, range(7))
    assert "more" not in named(table, range(5))


def test_files_that_are_no_results_are_counted_and_five_are_named(store: Store) -> None:
    store.publish(row())
    for number in range(6):
        store.storage.create(f"results/cells/dataset=d/model=m/{number}.txt", b"x")
    with pytest.warns(StoreWarning) as warned:
        assert store.table(["seed"]).num_rows == 1
    (warning,) = warned
    where = "results/cells/dataset=d/model=m/0.txt"
    assert str(warning.message).startswith(f"6 files in {store.storage.url} are left out: {where}")
    assert "; and 1 more. Run the sweep again" in str(warning.message)


def test_csv_cells_that_a_spreadsheet_would_run_are_text() -> None:
    rows = [{"a": "=1+1", "b": "-2.5", "c": "-x", "d": ("p", "q"), "e": None, "f": "+", "g": "@x", "h": 3, "i": "x=1"}]
    assert csv_bytes(rows).decode() == "a,b,c,d,e,f,g,h,i\n'=1+1,-2.5,'-x,p q,,'+,'@x,3,x=1\n"
    assert csv_bytes([]) == b"\n"
    assert csv_bytes([{"=a": 1}]).decode().splitlines()[0] == "'=a"


def test_merging_copies_what_is_missing_and_tells_what_differs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(merging, "FEW", 2)
    ours, theirs = (Store(open_storage(tmp_path / name)) for name in ("ours", "theirs"))
    for seed, metric in ((0, 97.0), (1, 97.0)):
        ours.publish(row(trial(seed=seed), metric_final=metric))
    ours.publish(Record.skipped(trial(seed=5), "no batch norm"))
    ours.publish_attempt(failure(trial(seed=6)))
    theirs.publish(row(trial(seed=0)))
    theirs.publish(row(trial(seed=1), metric_final=50.0))
    for seed in (2, 3, 5, 6):
        theirs.publish(row(trial(seed=seed)))
    theirs.publish_attempt(failure(trial(seed=6)))
    theirs.publish_attempt(failure(trial(seed=7), message="other"))
    done = merge(ours, theirs)
    assert (done.cells, done.attempts, done.known, done.differing) == (4, 1, 2, (trial(seed=1).trial_id,))
    assert [file.kind for file in ours.listing("results/cells")].count("part") == 1  # four are more than two
    expected = {trial(seed=s).trial_id: "ok" for s in (0, 1, 2, 3, 5, 6)} | {trial(seed=7).trial_id: "failed"}
    fresh = Store(ours.storage)
    assert fresh.statuses() == expected
    assert fresh.record(trial(seed=1).trial_id)["metric_final"] == 97.0
    again = merge(fresh, theirs)
    assert (again.cells, again.attempts, again.known) == (0, 0, 6)


def test_ids_are_found_by_their_first_digits(store: Store) -> None:
    ids = []
    for seed in range(40):
        store.publish(Record.skipped(one := trial(seed=seed), "r"))
        ids.append(one.trial_id)
    assert store.find(ids[3]) == ids[3]
    first = max({i[0] for i in ids}, key=lambda digit: sum(i[0] == digit for i in ids))
    several = sorted(i for i in ids if i[0] == first)
    with pytest.raises(UserError, match=f"trial id '{first}' is not unique: {several[0]}, {several[1]}"):
        store.find(first)
    for prefix in ("", "zz"):
        with pytest.raises(UserError, match=f"no trial '{prefix}' among the 40 in "):
            store.find(prefix)
    assert store.uncompacted() == 40
    assert MEASURED["metric_final"] == 97.0
