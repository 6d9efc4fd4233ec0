"""Stores that the tests of reports, plots and findings share."""

from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import failure, row, trial

FINALS = {"magnitude-l2": 96.0, "lamp": 95.4, "taylor": 95.0, "random": 90.0}
MARKUP = '<img src=x onerror="alert(1)">'
SCRIPT = "</script><script>alert(2)</script> {{ 7 * 7 }}"


def store(folder, rows=(), failures=()):
    """A store in `folder` with these rows."""
    made = Store(open_storage(str(folder)))
    for one in rows:
        made.publish(one)
    for one in failures:
        made.publish_attempt(one)
    return made


def seeded(models=("cifar-resnet20",), *, seeds=3, speedups=(2.0, 4.0), strategies=("protected-global",), **fields):
    """Finished rows: four criteria and one regularizer, with a spread over seeds."""
    rows = []
    for model in models:
        for strategy in strategies:
            for speedup in speedups:
                for seed in range(seeds):
                    for place, (name, final) in enumerate(FINALS.items()):
                        of = trial(name, model=model, speedup=speedup, seed=seed, strategy=strategy, **fields)
                        metric = final - speedup / 2 + 0.1 * ((seed + place) % 3)
                        rows.append(row(of, metric_final=metric, latency_ms=2 / speedup + 0.01 * place))
                    of = trial("magnitude-l2", "group-norm", model=model, speedup=speedup, seed=seed, strategy=strategy)
                    rows.append(row(of, metric_final=96.2 - speedup / 2 + 0.1 * (seed % 2)))
    return rows


def hostile():
    """Rows and a failure whose names and messages are markup."""
    rows = [
        row(trial("magnitude-l2", SCRIPT, dataset=MARKUP, model="../../etc/passwd"), metric_final=91.0),
        row(trial(MARKUP, dataset=MARKUP, model="../../etc/passwd"), metric_final=90.0),
        row(trial("turned\u202egpj.exe", dataset=MARKUP, model="../../etc/passwd"), metric_final=89.0),
    ]
    return rows, [failure(trial("random", dataset=MARKUP), message=SCRIPT)]
