"""A record can't be half a row."""

import json

import pytest

from raybench.results.schema import COLUMNS, Record, RecordError, config_id
from tests.unit.result_rows import RECIPE, failure, row, trial


def test_identity_comes_from_the_trial():
    of = trial("bn-scale", "group-norm", seed=3, speedup=4.0)
    record = row(of)
    assert record["trial_id"] == of.trial_id
    assert (record["method"], record["importance"], record["regularizer"]) == (
        "bn-scale+group-norm",
        "bn-scale",
        "group-norm",
    )
    assert (record["recipe"], record["seed"], record["speedup_target"]) == ("quick", 3, 4.0)
    assert type(of).model_validate_json(record["trial"]).trial_id == of.trial_id
    assert tuple(record) == tuple(c.name for c in COLUMNS)


def test_derived_columns():
    record = row(metric_base=98.0, metric_final=96.5, params_base=200, params=50)
    assert record["delta"] == -1.5
    assert record["params_kept"] == 0.25
    assert json.loads(record["kept"]) == {"conv1": [0, 2, 4]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metric_finl": 1.0}, "no column 'metric_finl'. Did you mean 'metric_final'?"),
        ({"metric_final": None}, "no metric_final"),
        ({"macs": None}, "no macs"),
        ({"layers": None}, "no layers"),
        ({"latency_ms": None}, r"no latency_ms \(or timing_reason\)"),
        ({"metric_final": float("nan")}, "metric_final: found nan, expected a finite number"),
        ({"metric_final": "97"}, "metric_final: found '97' .str., expected float"),
        ({"macs": 1.5}, "macs: found 1.5 .float., expected int"),
        ({"macs": True}, "macs: found True .bool., expected int"),
        ({"exclusive": 1}, "exclusive: found 1"),
        ({"curve": {"epoch": 1}}, "curve: found dict, expected a sequence of mappings"),
        ({"curve": [{"epoc": 1}]}, r"curve\[0\] has no field 'epoc'. Did you mean 'epoch'?"),
        ({"layers": [{"layer": 1}]}, r"layers\[0\].layer: found 1"),
        ({"status": "done"}, "status: found 'done', expected ok, failed or skipped"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_refused(values, message):
    with pytest.raises(RecordError, match=message):
        row(**values)


def test_reg_time_is_needed_only_with_a_regularizer():
    assert row(trial())["reg_time_s"] is None
    with pytest.raises(RecordError, match="reg_time_s"):
        row(trial(regularizer="group-norm"), reg_time_s=None)
    shared = row(trial(regularizer="group-norm"), reg_time_s=None, latency_ms=None, timing_reason="shared device")
    assert shared["timing_reason"] == "shared device"


def test_failed_and_skipped_rows_say_why():
    values = [failure()[k] for k in ("status", "stage", "error_type", "error_message", "attempt")]
    assert values == ["failed", "finetune", "RuntimeError", "out of memory", 1]
    assert Record.skipped(trial(), "no batch norm")["reason"] == "no batch norm"
    with pytest.raises(RecordError, match="no reason"):
        Record.of_trial(trial(), status="skipped")


def test_a_record_is_frozen():
    record = row()
    with pytest.raises(TypeError):
        record.values_["seed"] = 1
    with pytest.raises(TypeError):
        record["curve"][0]["epoch"] = 9


def test_config_id_joins_seeds_and_speedups_and_nothing_else():
    same = {config_id(trial(seed=seed, base_seed=seed, speedup=s)) for seed in (0, 1) for s in (2.0, 4.0)}
    assert len(same) == 1
    longer = RECIPE.model_copy(update={"finetune": RECIPE.finetune.model_copy(update={"epochs": 9})})
    others = [
        trial(strategy="local"),
        trial(schedule="iterative"),
        trial(recipe=longer),
        trial(params={"p": 1}),
        trial("lamp"),
    ]
    assert len({config_id(t) for t in others} | same) == 6


def test_every_column_says_what_it_means():
    assert all(column.meaning for column in COLUMNS)
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
