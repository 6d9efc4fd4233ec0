"""What a plan says: shared stages once, what is done left out, skips with reasons, nothing imported, in no time."""

import json
import resource
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.cli.main import main
from raybench.plan.plan import plan
from raybench.plan.view import as_json, open_questions
from raybench.progress.outcome import label_of
from raybench.results.schema import Record
from raybench.results.store import Store
from raybench.storage.local import LocalStorage
from raybench.sweep.nodes import as_yaml
from raybench.sweep.resolve import resolve
from raybench.sweep.sweep import Sweep
from tests.unit import sweeps

AXES = sweeps.AXES | {
    "methods": ["magnitude-l1", "taylor", "magnitude-l2+group-norm", "taylor+group-norm"],
    "strategies": ["local", "global"],
    "speedups": [2, 4, 8],
}


def sweep(**changes) -> Sweep:
    return Sweep.model_validate(AXES | changes)


@pytest.fixture
def storage(tmp_path) -> LocalStorage:
    return LocalStorage(tmp_path / "store")


def finish_stage(storage, key, tmp_path) -> None:
    folder = tmp_path / "stage" / key
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    storage.publish(f"stages/{key}", folder)


def fail(storage, trial) -> None:
    Store(storage).publish_attempt(
        Record.failed(trial, stage="finetune", error_type="E", error_message="m", traceback_path="t")
    )


def test_shared_stages_are_planned_once():
    counts = Counter(unit.kind for unit in plan(sweep()).units)
    assert counts == {
        "base": 2,  # one a model
        "sparsify": 2 * 2,  # a model and a seed: both methods with group-norm share it
        # a model, method, strategy, seed: all speed-ups in one pass; magnitude-l1 alone looks at weights: no seed
        "select": 2 * 4 * 2 * 2 - 2 * 2,
        "cell": 2 * 4 * 2 * 3 * 2,
    }


def test_every_unit_comes_after_what_it_needs_and_no_key_twice():
    seen: set[str] = set()
    for unit in plan(sweep()).units:
        assert seen.issuperset(unit.needs)
        assert unit.key not in seen
        seen.add(unit.key)


def test_needs_are_the_trials_own_stages():
    planned = plan(sweep())
    kinds = {unit.key: unit for unit in planned.units}
    for unit in planned.cells:
        trial = unit.trials[0]
        needed = [kinds[key] for key in unit.needs]
        assert [one.kind for one in needed] == (
            ["base", "sparsify", "select"] if trial.regularizer else ["base", "select"]
        )
        assert needed[0].key == trial.base_key
        assert trial.select_key in {served.select_key for served in needed[-1].trials}
        assert needed[-1].needs == unit.needs[:-1]


def test_a_pass_yields_one_cut_a_speed_up():
    for unit in plan(sweep()).units:
        if unit.kind == "select":
            assert [trial.speedup for trial in unit.trials] == [2.0, 4.0, 8.0]
            assert len({trial.pass_key for trial in unit.trials}) == 1


def test_a_selection_does_not_depend_on_which_speed_ups_were_asked():
    alone = {t.select_key for t in resolve(sweep(speedups=8))}
    assert alone == {t.select_key for t in resolve(sweep()) if t.speedup == 8}


def test_finished_stages_are_left_out(storage, tmp_path):
    trials = resolve(sweep())
    first = trials[0]
    finish_stage(storage, first.base_key, tmp_path)
    finish_stage(storage, first.select_key, tmp_path)
    planned = plan(sweep(), storage)
    keys = {unit.key for unit in planned.units}
    assert first.base_key not in keys
    assert next(u for u in planned.cells if u.key == first.trial_id).needs == ()
    rest = next(u for u in planned.units if u.kind == "select" and u.trials[0].pass_key == first.pass_key)
    assert [trial.speedup for trial in rest.trials] == [4.0, 8.0]
    assert rest.needs == ()
    for unit in planned.units:
        assert set(unit.needs) <= keys


def test_a_pass_over_other_cuts_has_another_key(storage, tmp_path):
    first = resolve(sweep())[0]
    before = {u.key for u in plan(sweep()).units if u.kind == "select" and u.trials[0].pass_key == first.pass_key}
    finish_stage(storage, first.select_key, tmp_path)
    after = {
        u.key for u in plan(sweep(), storage).units if u.kind == "select" and u.trials[0].pass_key == first.pass_key
    }
    assert len(before) == len(after) == 1
    assert before != after


def test_skipped_cells_in_the_store_are_done_and_failed_ones_are_tried_again(storage):
    trials = resolve(sweep())
    Store(storage).publish(Record.skipped(trials[0], "because"))
    fail(storage, trials[1])
    planned = plan(sweep(), storage)
    assert planned.done == (trials[0].trial_id,)
    assert trials[1].trial_id in {unit.key for unit in planned.cells}
    assert planned.stored == {trials[0].trial_id: "skipped", trials[1].trial_id: "failed"}
    left = plan(sweep(), storage, retry_failed=False)
    assert left.done == (trials[0].trial_id, trials[1].trial_id)
    assert len(left.cells) == len(trials) - 2


def test_a_stage_that_only_done_cells_want_is_not_planned(storage):
    one = sweep(models="test-convnet", methods="magnitude-l2+group-norm", strategies="local")
    for trial in resolve(one):
        Store(storage).publish(Record.skipped(trial, "because"))
    assert plan(one, storage).units == ()


def test_a_method_that_needs_batch_norm_skips_a_model_without(storage):
    planned = plan(sweep(methods=["bn-scale", "magnitude-l2+bn-scale", "magnitude-l1"]), storage)
    assert {(skip.trial.model, skip.trial.method) for skip in planned.skips} == {
        ("test-vit", "bn-scale"),
        ("test-vit", "magnitude-l2+bn-scale"),
    }
    assert planned.skips[0].reason == "criterion bn-scale needs BatchNorm; test-vit normalises with layer norm"
    ids = {skip.trial.trial_id for skip in planned.skips}
    assert not ids & {unit.key for unit in planned.units}
    Store(storage).publish(Record.skipped(planned.skips[0].trial, planned.skips[0].reason))
    assert len(plan(sweep(methods=["bn-scale"]), storage).skips) == len(AXES["speedups"]) * 2 * 2


def test_a_model_of_which_nothing_is_known_is_checked_at_start():
    planned = plan(sweep(models="timm:resnet18", methods="bn-scale"))
    assert planned.skips == ()
    assert planned.unchecked == ("timm:resnet18",)
    assert open_questions(planned) == ["how timm:resnet18 is built"]


@pytest.mark.parametrize(
    ("changes", "questions"),
    [
        ({}, []),
        ({"depths": [1, 0.5]}, ["which blocks can go"]),
        ({"image_sizes": [8, 6]}, ["which image sizes fit"]),
        ({"targets": {"latency": 2}}, []),
        ({"targets": {"latency_ms": 2}}, ["how many milliseconds the uncut networks take"]),
        ({"methods": ["random", "tome"]}, ["where tokens can go"]),
        ({"models": "test-convnet", "methods": ["random", "tome"]}, []),  # it has no tokens: known, and skipped
    ],
)
def test_the_plan_says_what_only_the_networks_show(tmp_path, capsys, changes, questions):
    assert open_questions(plan(sweep(**changes))) == questions
    (tmp_path / "s.yaml").write_text(as_yaml(AXES | changes))
    assert main(["plan", str(tmp_path / "s.yaml"), "--storage", str(tmp_path / "r")]) == 0
    line = f"the run finds out, and may skip cells for it: {', '.join(questions)}\n"
    assert (line in capsys.readouterr().out) == bool(questions)


def test_a_plan_without_timings_has_no_cost(storage):
    assert plan(sweep()).cost is None
    assert plan(sweep(), storage).cost is None


def test_the_cost_is_told_from_what_was_timed(monkeypatch, storage):
    timed = {("base", "digits", "test-vit", "r"): 10.0, ("cell", "digits", "test-vit", "other"): 4.0}
    timed |= {("select", "digits", "test-vit", "r", "raybench", "magnitude-l1"): 0.5}
    monkeypatch.setattr(Store, "timings", lambda self: timed)
    monkeypatch.setattr(Store, "statuses", lambda self: {"0" * 16: "ok"})
    one = sweep(models=["test-vit", "test-convnet"], methods="magnitude-l1", resources={"cpus": 2, "gpus": 0.5})
    cost = plan(one, storage).cost
    assert cost.seconds == {"base": 10.0, "select": 2 * 3 * 0.5, "cell": 2 * 2 * 3 * 4.0}
    assert cost.unknown == {"base": 1, "select": 2, "cell": 12}
    assert cost.gpu_hours == pytest.approx(cost.total_s / 3600 * 0.5)
    assert cost.cpu_hours == pytest.approx(cost.total_s / 3600 * 2)
    assert "12 of 30 units estimated from other recipes" in cost.source


def test_a_selection_takes_the_time_of_its_own_protocol_and_criterion(monkeypatch, storage):
    where = ("select", "digits", "test-vit", "r")
    timed = {(*where, "pruningbench", "obd-c"): 100.0, (*where, "raybench", "obd-c"): 5.0}
    timed |= {(*where, "raybench", "magnitude-l2"): 0.5}
    monkeypatch.setattr(Store, "timings", lambda self: timed)
    monkeypatch.setattr(Store, "statuses", lambda self: {"0" * 16: "ok"})

    def seconds(**axes):
        cost = plan(sweep(models=["test-vit"], speedups=[2], seeds=[0], strategies=["global"], **axes), storage).cost
        return cost and cost.seconds["select"]

    assert seconds(methods="obd-c", protocol="pruningbench") == 100.0
    assert seconds(methods="obd-c", protocol="raybench") == 5.0
    assert seconds(methods="magnitude-l1", protocol="raybench") == 0.5, "of the same kind"
    assert seconds(methods="magnitude-l1", protocol="pruningbench") is None, "nothing is like it"


def test_the_json_says_which_selections_are_slow():
    slow = as_json(plan(sweep(methods="taylor", protocol="pruningbench")), "s")["slow_selections"]
    assert "again before each of up to 400 steps" in slow
    assert as_json(plan(sweep(methods="taylor", protocol="raybench")), "s")["slow_selections"] is None


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(["random", "magnitude-l1", "taylor", "taylor+group-norm"]), min_size=1, unique=True),
    st.lists(st.sampled_from([1.5, 2, 3, 4, 8]), min_size=1, unique=True),
    st.lists(st.integers(0, 3), min_size=1, unique=True),
    st.lists(st.sampled_from(["test-convnet", "test-vit", "cifar-resnet20"]), min_size=1, unique=True),
    st.randoms(),
)
def test_order_and_neighbours_change_no_unit(methods, speedups, seeds, models, random):
    axes = {"methods": methods, "speedups": speedups, "seeds": seeds, "models": models}
    one = plan(sweep(**axes))
    shuffled = plan(sweep(**{axis: random.sample(values, len(values)) for axis, values in axes.items()}))
    assert {u.key for u in one.units} == {u.key for u in shuffled.units}
    assert len({u.key for u in one.units}) == len(one.units)
    assert len(one.cells) == 2 * len(methods) * len(speedups) * len(seeds) * len(models)
    larger = plan(sweep(**axes | {"methods": ["lamp", *methods], "seeds": [9, *seeds]}))
    assert {u.key for u in larger.units} >= {u.key for u in one.units}


YAML = """\
name: big
datasets: digits
models: [test-convnet, test-vit]
methods: [random, magnitude-l1, magnitude-l2, taylor, magnitude-l2+group-norm]
strategies: [local, global, protected-global, isomorphic]
speedups: [2, 3, 4]
seeds: [0, 1, 2, 3, 4]
recipe: {base: {epochs: 1, lr: 0.1}, sparsify: {epochs: 1, lr: 0.1}, finetune: {epochs: 1, lr: 0.1}}
include: {models: test-convnet, methods: bn-scale, strategies: local, seeds: 0}
exclude: {models: test-vit, methods: taylor, strategies: [isomorphic, local], seeds: 4}
"""


@pytest.fixture
def big(tmp_path):
    (tmp_path / "big.yaml").write_text(YAML)
    return str(tmp_path / "big.yaml")


def test_the_verbs_json_holds_every_cell(big, capsys, storage):
    assert main(["plan", big, "--format", "json", "--storage", storage.url]) == 0
    printed = json.loads(capsys.readouterr().out)
    ids = [cell["trial_id"] for cell in printed["cells"]]
    assert len(ids) == len(set(ids)) == printed["counts"]["cells"] == printed["counts"]["planned"] == 600 + 3 - 6
    assert printed["cells"][0] | {"trial_id": "", "recipe": ""} == {
        "trial_id": "", "status": "planned", "reason": None, "dataset": "digits", "model": "test-convnet",
        "method": "random", "strategy": "local", "seed": 0, "protocol": "raybench", "schedule": "progressive",
        "task": "classification", "speedup": 2.0, "ratio": None, "params": None, "latency_ms": None, "latency": None,
        "label": "random",
        "recipe": "", "depth": 1.0, "image_size": None,
    }  # fmt: skip
    assert Counter(stage["kind"] for stage in printed["stages"])["base"] == 2


def test_the_verbs_json_tells_done_failed_and_skipped(tmp_path, capsys, storage):
    recipe = "{base: {epochs: 1, lr: 1}, sparsify: {epochs: 1, lr: 1}, finetune: {epochs: 1, lr: 1}}"
    text = "name: s\ndatasets: digits\nmodels: test-vit\nmethods: [random, bn-scale]\nspeedups: [2, 3]\n"
    (tmp_path / "s.yaml").write_text(f"{text}recipe: {recipe}\n")

    def cells(*options) -> list[tuple]:
        assert main(["plan", str(tmp_path / "s.yaml"), "--format", "json", "--storage", storage.url, *options]) == 0
        return [(c["method"], c["status"], c["reason"]) for c in json.loads(capsys.readouterr().out)["cells"]]

    from raybench.sweep.reader import load_sweep

    fail(storage, resolve(load_sweep(tmp_path / "s.yaml"))[0])
    needs = "criterion bn-scale needs BatchNorm; test-vit normalises with layer norm"
    skipped = [("bn-scale", "skipped", needs)] * 2
    assert cells() == [("random", "planned", "failed before, tried again"), ("random", "planned", None), *skipped]
    assert cells("--no-retry-failed") == [("random", "failed", None), ("random", "planned", None), *skipped]


def test_the_verbs_table_is_readable_at_100_columns(big, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["plan", big]) == 0
    printed = capsys.readouterr().out
    assert "big: 597 cells: 597 planned" in printed
    *lines, command = printed.splitlines()
    assert max(map(len, lines)) <= 100
    assert command.startswith(f"  raybench run {big} --only ")  # whole, to be copied


def test_the_plan_says_which_selections_gather_before_every_step(tmp_path, capsys):
    text = "name: s\ndatasets: digits\nmodels: test-vit\nmethods: [random, taylor, magnitude-l1]\nspeedups: [2, 3]\n"
    recipe = "recipe: {base: {epochs: 1, lr: 1}, sparsify: {epochs: 1, lr: 1}, finetune: {epochs: 1, lr: 1}}\n"
    slow = "1 of 3 selections is slow: protocol pruningbench gathers from the calibration images again before each"
    for protocol in ("raybench", "pruningbench"):
        (tmp_path / "s.yaml").write_text(f"{text}{recipe}protocol: {protocol}\n")
        assert main(["plan", str(tmp_path / "s.yaml"), "--storage", str(tmp_path)]) == 0
        assert (slow in capsys.readouterr().out) == (protocol == "pruningbench")


def test_600_cells_are_planned_in_under_a_second_without_torch_or_ray(big):
    code = (
        "import sys; from raybench.cli.main import main; assert main(['plan', sys.argv[1], '--format', 'json']) == 0;"
        "heavy = {'torch', 'ray', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    seconds = []
    for _ in range(2):  # processor time: others share the machine while tests run
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code, big], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 1.0, seconds


def test_units_name_their_recipe_where_the_sweep_has_several():
    short = sweeps.RECIPE | {"name": "short"}
    axes = {"methods": ["magnitude-l1"], "models": ["test-convnet"], "speedups": [2], "strategies": ["global"]}
    long = short | {"name": "long", "finetune": {"epochs": 3, "lr": 0.1}}  # the same base
    one = sweep(**axes, recipe=short, recipes=[short, long])
    found = {(unit.kind, unit.recipe) for unit in plan(one).units}
    assert found == {("base", ""), ("select", ""), ("cell", "short"), ("cell", "long")}
    assert {label_of(unit).partition(" recipe ")[2] for unit in plan(one).cells} == {"short", "long"}
    assert {unit.recipe for unit in plan(sweep(**axes)).units} == {""}
