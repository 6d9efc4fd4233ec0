"""The shared stages that a driver says it planned: as many as `raybench plan` tells."""

from raybench.cli.main import main
from raybench.execution.driver import Run
from raybench.execution.worker import Assignment
from raybench.plan.plan import plan
from raybench.progress.records import planned
from raybench.storage.local import LocalStorage
from raybench.sweep.reader import load_sweep


def test_shared_stages_are_counted_as_the_plan_counts_them(tmp_path, capsys):
    storage, file = LocalStorage(tmp_path / "store"), tmp_path / "s.yaml"
    file.write_text(
        "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: [random, magnitude-l1]\nspeedups: [2, 3, 4]\n"
        "seeds: [0, 1]\nrecipe: quick\n"
    )
    fresh = plan(load_sweep(file), storage)

    def shown():
        assert main(["watch", storage.url, "--once"]) == 3
        return capsys.readouterr().out

    run = Run(storage, Assignment(storage.url), sweep="s")
    run.load(fresh)
    cuts = next(unit for unit in fresh.stages if unit.kind == "select").trials
    assert len(cuts) == 3
    for done, cut in enumerate(cuts):
        total = len(fresh.stages)
        assert f"s: 0/12 cells (0 ok, 0 failed, 0 skipped), 0/{total} shared" in shown(), done
        folder = tmp_path / "cut"
        folder.mkdir()
        (folder / "x").write_text("x")
        storage.publish(f"stages/{cut.select_key}", folder)
    assert f", 1/{total} shared stages" in shown()
    assert planned("s", plan(load_sweep(file), storage)) == planned("s", fresh)
    run.leave()
