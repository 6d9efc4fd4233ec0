"""Findings: those of the published rows as they are known, those of stores by construction, and what can't be said"""

import json

import pytest

from raybench.cli.main import main
from raybench.reports.cells import published_frame
from raybench.reports.findings import architectures, consistency, costs, regularizers, sizes, strategies, winners
from raybench.reports.findings.find import QUESTIONS, published_answers
from raybench.reports.findings.read import read_findings
from tests.unit.report_stores import seeded, store
from tests.unit.result_rows import failure, row, trial


def found(folder, rows, failures=()):
    return {one.title: one.ours for one in read_findings(store(folder, rows, failures))}


def as_rows(answer):
    return {line[0]: line for line in answer.rows}


def test_published_weight_norms_are_among_the_first_five():
    lines = as_rows(winners.answer(published_frame()))
    assert [lines[name][1:5] for name in ("magnitude-l2", "magnitude-l1")] == [(21, 6, 19, 3.14), (21, 4, 18, 3.24)]
    assert lines["hrank"][4] == 9.56


def test_published_gains_of_regularizers():
    lines = {(line[0], line[1]): (line[5], line[3], line[2]) for line in regularizers.answer(published_frame()).rows}
    assert lines == {
        ("bn-scale", "bn-scale"): (0.42, 14, 18),
        ("bn-scale", "bn-group-lasso"): (0.28, 12, 18),
        ("magnitude-l2", "growing-reg"): (-0.12, 11, 21),
        ("magnitude-l2", "group-lasso"): (-0.16, 11, 21),
        ("magnitude-l2", "group-norm"): (-0.18, 9, 21),
    }


def test_published_p_values_are_refused():
    answer = regularizers.answer(published_frame())
    assert {line[-1] for line in answer.rows} == {"refused"}
    assert "8 pairs of dataset and model are needed" in answer.sentence


def test_published_rows_say_nothing_of_strategies_seeds_and_latency():
    rows = published_frame()
    assert "all cells have the strategy protected-global" in strategies.answer(rows).sentence
    assert "nothing can be said about seeds" in consistency.answer(rows).sentence
    assert "no latencies" in sizes.answer(rows).sentence


def test_published_criteria_that_depend_on_the_architecture():
    names = [line[0] for line in architectures.answer(published_frame()).rows if line[6] == "no"]
    assert {"lamp", "hrank"} <= set(names)
    assert not {"magnitude-l1", "magnitude-l2"} & set(names)


def test_published_cost_does_not_buy_places():
    assert "does not buy a better place" in costs.answer(published_frame()).sentence


def test_every_claim_has_a_published_answer():
    assert len(published_answers()) == len(QUESTIONS) == 7
    assert all(answer.sentence for answer in published_answers())


def test_a_method_that_always_wins_is_said_to(tmp_path):
    answer = found(tmp_path, seeded(("cifar-resnet20", "vit-nano")))["No method wins everywhere"]
    assert answer.sentence.startswith("magnitude-l2 wins all 4 rankings of criteria")


def test_equal_rankings_agree_fully(tmp_path):
    answer = found(tmp_path, seeded(("cifar-resnet20", "vit-nano")))["Consistency of rankings"]
    lines = as_rows(answer)
    assert lines["model"][2:] == (1.0, 1.0, 1.0)
    assert lines["speed-up"][2:] == (1.0, 1.0, 1.0)
    assert lines["seed"][2] > 0.6
    assert "nothing can be said about datasets" in answer.sentence.lower()


def test_strategies_are_compared_on_the_same_cells(tmp_path):
    rows = []
    for model in ("cifar-resnet20", "cifar-resnet56", "vit-nano"):
        for speedup, gain in ((2.0, 0.0), (8.0, 2.0)):
            for seed in range(2):
                for strategy in ("global", "protected-global"):
                    of = trial("lamp", model=model, speedup=speedup, seed=seed, strategy=strategy)
                    final = 95 - speedup / 2 + 0.1 * seed + (gain if strategy == "protected-global" else 0)
                    rows.append(row(of, metric_final=final))
    answer = found(tmp_path, rows)["Local, global, protected global"]
    assert [line[1:5] + line[-1:] for line in answer.rows] == [
        ("2x", 6, 3, 0.0, "equivalent"),
        ("8x", 6, 3, 2.0, "better"),
    ]
    assert "at 8x protected-global is 2.00 points above global (3 models, clear)" in answer.sentence


def test_few_models_have_no_interval(tmp_path):
    answers = found(tmp_path, seeded(strategies=("global", "protected-global")))
    assert {line[-1] for line in answers["Local, global, protected global"].rows} == {"too few models"}
    assert "no interval" in answers["Local, global, protected global"].sentence


@pytest.mark.parametrize(("rows", "failures"), [([], [failure()]), ([row()], [])])
def test_what_can_not_be_said_is_said(tmp_path, rows, failures):
    answers = found(tmp_path, rows, failures)
    assert len(answers) == 7
    assert all(answer.sentence.endswith(".") for answer in answers.values())


@pytest.mark.parametrize("options", [[], ["--figures"]])
def test_the_command_prints_claims_and_both_answers(tmp_path, capsys, options):
    store(tmp_path, seeded())
    assert main(["findings", str(tmp_path), *options]) == 0
    shown = capsys.readouterr().out
    assert shown.count("claim: ") == shown.count("published rows: ") == shown.count("these results: ") == 7
    assert ("mean place, %" in shown) == bool(options)


def test_the_command_prints_json(tmp_path, capsys):
    store(tmp_path, seeded())
    assert main(["findings", str(tmp_path), "--format", "json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert set(parsed[0]) == {"title", "claim", "published", "ours"}
    assert parsed[0]["ours"]["rows"]


def test_an_empty_store_is_refused_in_a_line(tmp_path, capsys):
    store(tmp_path)
    assert main(["findings", str(tmp_path)]) == 2
    assert "no results in" in capsys.readouterr().err


def test_no_method_takes_less_than_the_cheapest(tmp_path):
    times = {("lamp", None): 1.0, ("lamp", "group-norm"): 3.0, ("taylor", None): 8.0}
    rows = [row(trial(name, regularizer), step_time_s=taken) for (name, regularizer), taken in times.items()]
    steps = {line[0]: line[1] for line in found(tmp_path, rows)["Cost against gain"].rows}
    assert steps == {"lamp": 1.0, "lamp+group-norm": 3.0, "taylor": 8.0}
