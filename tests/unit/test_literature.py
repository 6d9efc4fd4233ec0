"""Rows of the literature: what they say, what of ours stands beside them, and by whose rules ours was made."""

import json
from pathlib import Path

import pytest

from raybench import registry
from raybench.cli.main import main
from raybench.plan.plan import plan
from raybench.reports.comparison import compare
from raybench.reports.leaderboard import Leaderboard, Query
from raybench.reports.literature import literature
from raybench.reports.published import PROTOCOL, published
from raybench.reports.query import query
from raybench.reports.rules import CRITERIA, OURS, PUBLISHED, REGULARIZERS, SELECTIONS, TOKENS, besides_authors, rules
from raybench.results.store import Store
from raybench.storage.open import open_storage
from raybench.sweep.reader import load_sweep
from raybench.sweep.trial import MethodRef
from tests.unit.result_rows import row, trial

LOOP = {"dataset": "cifar10", "model": "cifar-resnet56", "strategy": "global", "protocol": "pruningbench"}
SWEEPS = Path(__file__).parents[2] / "sweeps"
VGG = LOOP | {"dataset": "cifar100", "model": "cifar-vgg19-bn"}


@pytest.fixture
def store(tmp_path):
    return Store(open_storage(tmp_path / "ours"))


def matches(store):
    found = compare(Leaderboard.read(store, Query())).literature
    return {(m.method, m.theirs.authors_method): m for m in found}


def test_torch_prunings_own_table_is_in_it():
    """The figures of its reproduce table, by our names of its methods."""
    rows = {(r.model, r.method, r.speedup): (r.base, r.pruned) for r in literature() if r.protocol == PROTOCOL}
    assert rows["cifar-resnet56", "magnitude-l1", 2.12] == (93.53, 92.93)
    assert rows["cifar-resnet56", "magnitude-l2", 2.11] == (93.53, 93.46)
    assert rows["cifar-resnet56", "magnitude-l2+growing-reg", 2.12] == (93.53, 93.55)
    assert rows["cifar-resnet56", "bn-scale+bn-scale", 2.12] == (93.53, 93.29)
    assert rows["cifar-vgg19-bn", "magnitude-l2", 8.87] == (73.50, 67.60)
    assert all(r.selection == "best test epoch" and r.strategy == "global" for r in literature() if r.protocol)


def test_a_difference_that_is_not_the_figures_is_kept_and_marked():
    marked = {
        (r.authors_method, r.base, r.pruned): (r.printed_difference, r.difference) for r in literature() if r.anomaly
    }
    assert marked == {
        ("HRank", 93.26, 92.17): (-0.09, -1.09),
        ("group_sl (Ours)", 93.53, 93.77): (0.38, 0.24),
        ("GReg-1", 74.02, 67.55): (-6.67, -6.47),
        ("group_norm (Ours w/o SL)", 73.50, 67.60): (-5.44, -5.90),
    }


@pytest.mark.parametrize("one", literature(), ids=lambda one: f"{one.authors_method}-{one.model}-{one.pruned}")
def test_a_row_agrees_with_itself(one):
    assert one.source
    assert one.pruned is not None or one.printed_difference is not None
    assert (one.speedup is None) == (one.speedup_of is None)
    assert (one.strategy is None) == (one.protocol is None)
    if one.base is not None and one.pruned is not None:
        assert one.difference == round(one.pruned - one.base, 2)
        differs = one.printed_difference is not None and one.printed_difference != one.difference
        assert bool(one.anomaly) == differs
    else:
        assert one.difference is None
        assert one.anomaly is None
    assert one.dataset in registry.dataset.entries()
    importance, _, regularizer = (one.method or "random").partition("+")
    assert importance in registry.importance.entries()
    assert not regularizer or regularizer in registry.regularizer.entries()


def test_ours_beside_theirs_worked_by_hand(store):
    for seed, final in ((0, 92.0), (1, 93.0)):
        cell = trial("magnitude-l1", **LOOP, speedup=2.11, seed=seed)
        store.publish(row(cell, metric_base=93.0, metric_final=final, speedup=2.13))
    store.publish(row(trial("magnitude-l2", **VGG, speedup=8.84), metric_base=73.0, metric_final=67.0, speedup=8.9))
    found = matches(store)
    assert set(found) == {("magnitude-l1", "Group-L1"), ("magnitude-l2", "group_norm (Ours w/o SL)")}
    first = found["magnitude-l1", "Group-L1"]
    assert (first.n, first.final, first.delta) == (2, 92.5, pytest.approx(-0.5))
    assert first.difference == pytest.approx(-0.5 - -0.60)
    wrong = found["magnitude-l2", "group_norm (Ours w/o SL)"]
    assert wrong.difference == pytest.approx(-6.0 - -5.90)  # of the printed figures, not of the printed difference
    assert (wrong.theirs.printed_difference, wrong.theirs.difference) == (-5.44, -5.90)


@pytest.mark.parametrize(
    ("achieved", "found"), [(2.12 * 1.049, True), (2.12 * 1.051, False), (2.12 * 0.951, True), (2.12 * 0.949, False)]
)
def test_speedups_within_five_percent_are_compared(store, achieved, found):
    store.publish(row(trial("magnitude-l1", **LOOP, speedup=2.0), speedup=achieved))
    assert bool(matches(store)) is found


@pytest.mark.parametrize(
    "other",
    [{"dataset": "cifar100"}, {"model": "cifar-resnet20"}, {"importance": "random"}, {"regularizer": "bn-scale"}],
)
def test_another_cell_is_not_compared(store, other):
    store.publish(row(trial(**{"importance": "magnitude-l1", **LOOP, "speedup": 2.12, **other})))
    assert not matches(store)


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({}, PUBLISHED),
        ({"protocol": "raybench"}, OURS),
        ({"strategy": "local"}, "differs in: the strategy (theirs: global)"),
    ],
)
def test_the_rules_of_ours_beside_torch_prunings_row(store, change, made):
    store.publish(row(trial("magnitude-l1", **LOOP | change, speedup=2.12)))
    (match,) = matches(store).values()
    assert match.rules == made


def test_an_authors_own_procedure_is_never_ours(store):
    store.publish(row(trial("hrank", **LOOP, speedup=2.0)))
    found = compare(Leaderboard.read(store, Query())).literature
    assert len(found) > 1
    assert {match.rules for match in found} == {OURS}


def test_every_registered_method_has_a_line():
    assert set(CRITERIA) == set(registry.importance.entries())
    assert set(REGULARIZERS) == set(registry.regularizer.entries())
    assert set(SELECTIONS) == set(registry.selection.entries())
    assert set(TOKENS) == set(registry.token.entries())


def test_rules_of_a_method():
    assert rules("magnitude-l2", None, "pruningbench") == PUBLISHED
    assert rules("magnitude-l2", None, "raybench") == OURS
    assert rules("fpgm", None, "pruningbench").startswith("differs in: distances of filters")
    assert rules("somebody-elses", None, "pruningbench") == OURS
    assert rules("magnitude-l2", "somebody-elses", "pruningbench") == OURS
    both = rules("fpgm", "growing-reg", "pruningbench")
    texts = [getattr(one, "text", one) for one in (*CRITERIA["fpgm"].library, *REGULARIZERS["growing-reg"].library)]
    assert all(text in both for text in texts)
    assert besides_authors("cp", None) == "no intercept, no refitted bias"
    assert besides_authors("random", None) is None
    assert besides_authors("tome", None) == "left tokens keep their order"
    assert rules("resrep", None, "raybench") == OURS
    assert rules("resrep", None, "pruningbench").startswith("differs in: channels are chosen while the network trains")


def made(dataset, importance, regularizer=None):
    """A resolved trial, with (name, parameters, version) of its parts."""

    def part(name, params, version):
        return {"name": name, "params": params, "version": version}

    return {"dataset": dataset, "importance": part(*importance), "regularizer": regularizer and part(*regularizer)}


@pytest.mark.parametrize(
    ("trial_", "absent", "message"),
    [
        (
            made("cifar100", ("magnitude-l2", {"normalize": "max"}, 1), ("group-norm", {"layer_norm": False}, 2)),
            "divided", None,
        ),
        (
            made("cifar100", ("magnitude-l2", {"normalize": "mean"}, 1), ("group-norm", {"layer_norm": True}, 2)),
            None, "scores are divided by the group's mean (theirs: by its maximum); scales of norms other than",
        ),
        (
            made("imagenet", ("magnitude-l2", {"normalize": "max"}, 1), ("group-norm", {"layer_norm": False}, 2)),
            None, "scores are divided by the group's maximum (theirs: by its mean)",
        ),
        (made("imagenet", ("magnitude-l2", {}, 1), ("growing-reg", {"norm_scales": False}, 2)), "norm scales", None),
        (made("imagenet", ("magnitude-l2", {}, 1), ("growing-reg", {}, 2)), None, "norm scales are penalised too"),
        (made("cifar10", ("obd-c", {"shares": False}, 2)), "shares", None),
        (made("cifar10", ("obd-c", {"sides": "all"}, 2)), None, "input slices and norm scales count; scores"),
        (made("cifar10", ("obd-c", {}, 1)), None, "made by version 1 of obd-c (now: 2)"),
    ],
)  # fmt: skip
def test_rules_follow_the_parameters_of_the_result(trial_, absent, message):
    regularizer = trial_["regularizer"] and trial_["regularizer"]["name"]
    found = rules(trial_["importance"]["name"], regularizer, "pruningbench", trial=trial_)
    assert message is None or message in found
    assert absent is None or absent not in found


def test_the_papers_sweeps_have_the_published_parameters():
    """What still differs under protocol pruningbench is what no parameter of a sweep can change."""
    for name in ("paper-cifar100", "paper-imagenet", "paper-coco", "acceptance-cifar"):
        for one in plan(load_sweep(SWEEPS / f"{name}.yaml")).trials:
            trial_ = one.model_dump(mode="json")
            regularizer = one.regularizer and one.regularizer.name
            found = rules(one.importance.name, regularizer, one.protocol, trial=trial_)
            parts = (CRITERIA[one.importance.name], REGULARIZERS.get(regularizer or ""))
            fixed = {text for part in parts if part for text in part.library if isinstance(text, str)}
            assert set(found.removeprefix("differs in: ").split("; ")) - {PUBLISHED} <= set(
                "; ".join(fixed).split("; ")
            )


def test_the_comparison_reads_the_trials_of_its_rows(store):
    cell = trial("magnitude-l2", **VGG | {"strategy": "protected-global"}, speedup=8.0)
    maximum = MethodRef(name="magnitude-l2", params={"normalize": "max"})
    store.publish(row(cell.model_copy(update={"importance": maximum}), speedup=8.8))
    found = compare(Leaderboard.read(store, Query()))
    assert {r.rules for r in found.rows} == {
        "differs in: scores are divided by the group's maximum (theirs: by its mean)"
    }
    assert "divided by the group's maximum" in found.literature[0].rules


def test_published_rows_of_group_lasso_are_those_of_the_penalties_that_they_name():
    names = {(r["importance"], r["regularizer"]) for r in published() if "lasso" in (r["regularizer"] or "")}
    assert names == {("bn-scale", "bn-group-lasso"), ("magnitude-l2", "group-lasso")}


def test_every_published_cell_gets_a_mark():
    """None of the methods that PruningBench lists is `ours` under its protocol; under ours all are."""
    methods = {(r["importance"], r["regularizer"]) for r in published()}
    made = {method: rules(*method, "pruningbench") for method in methods}
    assert OURS not in made.values()
    weights_only = ("random", "magnitude-l1", "magnitude-l2", "lamp", "bn-scale")
    assert {importance for (importance, extra), text in made.items() if text == PUBLISHED and not extra} == set(
        weights_only
    )
    assert {rules(*method, "raybench") for method in methods} == {OURS}


def test_the_verb_prints_the_second_table(store, capsys):
    cell = trial("magnitude-l2", **VGG | {"strategy": "protected-global"}, speedup=8.0)
    store.publish(row(cell, metric_base=73.0, metric_final=67.0, speedup=8.6))
    store.publish(row(trial("fpgm", **VGG | {"strategy": "protected-global"}, speedup=8.0), metric_final=60.0))
    assert main(["compare", store.storage.url]) == 0
    out = capsys.readouterr().out
    first, _, second = out.partition("literature: cifar-vgg19-bn on cifar100 (protocol pruningbench, recipe quick)")
    assert "published rules" in first
    assert "differs in: distances of filters" in first
    assert "group_norm (Ours w/o SL)!" in second
    assert "-5.90" in second
    assert "! group_norm (Ours w/o SL): difference printed -5.44; pruned minus base is -5.90" in second
    assert "source: VainF/Torch-Pruning reproduce/readme.md" in second
    assert main(["compare", store.storage.url, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {r["method"]: r["rules"].partition(":")[0] for r in report["rows"]} == {
        "magnitude-l2": "published rules", "fpgm": "differs in",
    }  # fmt: skip
    (match,) = report["literature"]
    assert (match["theirs"]["pruned"], match["theirs"]["selection"]) == (67.60, "best test epoch")
    assert match["difference"] == pytest.approx(-0.10)


def test_the_rows_are_a_table_of_sql(store):
    store.publish(row(trial("magnitude-l1")))
    found = query(store, "SELECT count(*), count(anomaly) FROM literature")
    assert found.rows == ((len(literature()), 4),)
