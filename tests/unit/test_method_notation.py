"""A method as it is printed can be typed: ``cp(points=5)+group-norm(strength=0.1)``, in sweeps and for prune."""

from __future__ import annotations

import pytest

from raybench.cli.main import main
from raybench.errors import SpecError
from raybench.reports.labels import unique_labels
from raybench.sweep.method_label import method_label, read_label, with_params
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve

SWEEP = "name: s\ndatasets: digits\nmodels: test-convnet\nspeedups: 2\nrecipe: quick\n"


def labels(tmp_path, methods: str) -> list[str]:
    (tmp_path / "s.yaml").write_text(f"{SWEEP}methods: {methods}\n")
    trials = resolve(load_sweep(tmp_path / "s.yaml"))
    return [method_label(trial.model_dump(include={"importance", "regularizer"})) for trial in trials]


@pytest.mark.parametrize(
    "typed",
    [
        "lamp",
        "cp(points=5)",
        "cp(points=5, reconstruct=false)",
        "obd-c(sides=all)",
        "lamp+group-norm(strength=0.1)",
        "magnitude-l2(normalize=max)+group-norm(strength=0.0012345678)",
    ],
)
def test_what_is_typed_is_what_is_printed(typed, tmp_path) -> None:
    assert labels(tmp_path, f'"{typed}"') == [typed]
    assert labels(tmp_path, f'{{name: "{typed}"}}') == [typed]


def test_the_notation_is_the_mapping(tmp_path) -> None:
    short = labels(tmp_path, '["cp(points=[5, 20])", {name: "obd-c(sides=all)", params: {shares: false}}]')
    long = labels(
        tmp_path, "[{name: cp, params: {points: [5, 20]}}, {name: obd-c, params: {sides: all, shares: false}}]"
    )
    assert short == long == ["cp(points=5)", "cp(points=20)", "obd-c(sides=all, shares=false)"]
    (tmp_path / "s.yaml").write_text(f'{SWEEP}methods: lamp\ninclude: {{methods: ["cp (points=5)"]}}\n')
    assert [one.importance.params for one in resolve(load_sweep(tmp_path / "s.yaml"))][1]["points"] == 5


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("cp(points", "methods: found 'cp(points', expected NAME(PARAMETER=VALUE, ...)"),
        ("cp(points=)", "expected NAME(PARAMETER=VALUE"),
        ("cp(5)", "expected NAME(PARAMETER=VALUE"),
        ("cp(points=1, points=2)", "expected NAME(PARAMETER=VALUE"),
        ("cp(points=x)", "methods[0].params.points: found 'x', expected a whole number"),
        ("lamp(p=2)", "methods[0].params.p: unknown parameter of criterion 'lamp'"),
        ("lamp+group-norm(strngth=2)", "Did you mean 'strength'?"),
        ("lam(p=2)", "methods[0].name: unknown method 'lam'. Did you mean 'lamp'?"),
    ],
)
def test_mistakes_in_it_are_named(typed, said, tmp_path) -> None:
    with pytest.raises(SpecError) as found:
        labels(tmp_path, f'"{typed}"')
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "cp(points"], "--method: found 'cp(points', expected NAME(PARAMETER=VALUE, ...)"),
        (["--method", "cpp(points=5)"], "--method: unknown method 'cpp'. Did you mean 'cp'?"),
        (["--method", "lamp(p=5)"], "--method: p: unknown parameter of criterion 'lamp'"),
        (["--method", "lamp+group-nrm"], "--method: unknown regularizer 'group-nrm'. Did you mean 'group-norm'?"),
        (["--method", "lamp+group-norm(x=1)"], "--method: x: unknown parameter of regularizer"),
        (["--regularizer", "group-norm(x=1)"], "--regularizer: x: unknown parameter of regularizer"),
        (["--method", "lamp+bn-scale", "--regularizer", "group-norm"], "--regularizer: found 'group-norm' beside"),
    ],
)
def test_prune_names_the_option(options, said, capsys) -> None:
    assert main(["prune", "--model", "test-convnet", "--dataset", "digits", "--speedup", "2", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_number_is_printed_with_all_its_digits() -> None:
    assert with_params("a", {"p": 0.1, "q": 1e-07, "r": 0.12345678901, "s": True}) == (
        "a(p=0.1, q=1e-07, r=0.12345678901, s=true)"
    )
    assert read_label("a (p=1, m=out) + b(q=[1, 2])") == ("a+b", {"p": "1", "m": "out"}, {"q": "[1, 2]"})


def test_a_board_labels_methods_as_they_are_typed() -> None:
    def trial(points: int, strength: float, epochs: int) -> dict:
        return {
            "importance": {"name": "cp", "params": {"points": points}},
            "regularizer": {"name": "group-norm", "params": {"strength": strength}},
            "recipe": {"finetune": {"epochs": epochs}},
        }

    trials = {"a": trial(5, 0.1, 3), "b": trial(10, 0.1, 3), "c": trial(5, 0.2, 9)}
    rows = [{"config_id": name, "method": "cp+group-norm", "trial_id": name} for name in trials]
    assert unique_labels(rows, lambda ids: {one: trials[one] for one in ids}, ("method",)) == {
        "a": "cp(points=5)+group-norm(strength=0.1) (finetune.epochs=3)",
        "b": "cp(points=10)+group-norm(strength=0.1) (finetune.epochs=3)",
        "c": "cp(points=5)+group-norm(strength=0.2) (finetune.epochs=9)",
    }
