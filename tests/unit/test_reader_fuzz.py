"""Seeded damage to every kind of file that is read: cut short, bits flipped, values of other types. No reader raises.

`python -m tests.unit.test_reader_fuzz 200` tries as many of each kind as asked.
"""

import json
import random
import warnings
from pathlib import Path

import pytest
import yaml

from raybench.datasets.coco import read_instances
from raybench.datasets.coco_records import read_json
from raybench.datasets.yolo_labels import boxes_of
from raybench.errors import RaybenchError
from raybench.models.weights import read_tensors
from raybench.pipeline.artifact import read_recipe
from raybench.plan.share import Copies, Share, encode_share, file_of, read_share
from raybench.progress.journal import read_journal
from raybench.progress.records import Planned, heartbeat, read_drivers, read_plan, write_plan
from raybench.progress.snapshot import StoreReader
from raybench.progress.view import plain
from raybench.results.store import Store
from raybench.storage import sealed
from raybench.storage.gc import find_garbage
from raybench.storage.leases import Lease, stamp
from raybench.storage.local import LocalStorage
from raybench.sweep.reader import load_sweep

from .fuzzed_checkpoints import originals
from .result_rows import row, trial

ROUNDS = 25  # of each kind of file
ODD = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 300,
    "\x1b[2J",
    "../..",
    [],
    {},
    [[]],
    {"a": 1},
]
SWEEP = {
    "name": "s", "datasets": ["digits"], "models": [{"name": "test-convnet", "weights": "trained"}],
    "methods": [{"name": "magnitude-l2", "params": {}}], "speedups": [2, 4], "seeds": [0, 1], "recipe": "quick",
    "resources": {"cpus": 1}, "include": [{"models": "test-vit", "speedups": 2}],
}  # fmt: skip
RECIPE = {"extends": "quick", "base": {"epochs": 1, "lr": 0.1, "warmup_epochs": 0}, "finetune": {"epochs": 2}}
ENTRY = {
    "key": "0123456789abcdef", "kind": "cell", "label": "a cell", "host": "h", "pid": 1, "started": 1.0, "status": "ok",
    "stages": [{"stage": "base", "started": 1.0, "seconds": 2.0}], "seconds": 3.0, "summary": {"metric_final": 9.0},
}  # fmt: skip
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}], "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}],
}  # fmt: skip


def changed(value, draw):
    """`value` with one value inside it, at any depth, replaced, removed or put in twice."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(sorted(value))
        rest = {name: inner for name, inner in value.items() if name != key}
        return rest if draw.random() < 0.15 else value | {key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], changed(value[place], draw), *value[place + draw.randrange(2) :]]
    return draw.choice(ODD)


def damaged(data, draw):
    """`data` cut short, with flipped bits, with bytes of another place, or none."""
    how = draw.randrange(5)
    if how == 0 or not data:
        return data[: draw.randrange(len(data) + 1)]
    if how < 3:
        flipped = bytearray(data)
        for _ in range(draw.choice([1, 3, 20])):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    start, other = draw.randrange(len(data)), draw.randrange(len(data))
    return data[:start] + data[other : other + draw.randrange(1, 40)] + data[start:]


def texts(value, write, number, seed):
    """Damaged forms of a structure: half by its types, half by its bytes."""
    draw = random.Random(f"{seed}")
    for turn in range(number):
        wrong = value
        for _ in range(draw.choice([1, 1, 3])):
            wrong = changed(wrong, draw)
        yield write(wrong).encode("utf-8", "surrogatepass") if turn % 2 else damaged(write(value).encode(), draw)


def dump(value):
    return yaml.safe_dump(value, allow_unicode=True)


def look(storage):
    """Everything that reads the small files of a storage."""
    list(plain(StoreReader(storage).read()))
    find_garbage(storage, ())
    list(read_journal(storage))


def sweeps(folder, number):
    for data in texts(SWEEP, dump, number, "sweep"):
        (folder / "s.yaml").write_bytes(data)
        yield lambda: load_sweep(folder / "s.yaml")


def recipes(folder, number):
    (folder / "s.yaml").write_text(dump(SWEEP | {"recipe": "r.yaml"}))
    for data in texts(RECIPE, dump, number, "recipe"):
        (folder / "r.yaml").write_bytes(data)
        yield lambda: load_sweep(folder / "s.yaml")


def rows(folder, number):
    store = Store(LocalStorage(folder / "good"))
    store.publish(row())
    (key,) = store.storage.list("results")
    draw, data = random.Random("row"), store.storage.read(key)
    for turn in range(number):
        bad = LocalStorage(folder / f"bad{turn}")
        bad.create(key, damaged(data, draw))
        yield lambda bad=bad: (Store(bad).table(), Store(bad).statuses(), Store(bad).record(trial().trial_id))


def leases(folder, number):
    for turn, data in enumerate(texts(stamp(60), json.dumps, number, "lease")):
        storage = LocalStorage(folder / str(turn))
        storage.create("leases/abc/1", data)
        storage.create("journal/abc/1-h-1.json", json.dumps(ENTRY | {"status": "running"}).encode())

        def read(storage=storage):
            look(storage)
            lease = Lease(storage, "abc")
            lease.acquire()
            lease.release()

        yield read


def journals(folder, number):
    for turn, data in enumerate(texts(ENTRY, json.dumps, number, "journal")):
        storage = LocalStorage(folder / str(turn))
        storage.create("journal/0123456789abcdef/1-h-1.json", data)
        storage.create("leases/0123456789abcdef/1", json.dumps(stamp(60)).encode())
        storage.create("runs/r.json", json.dumps(run_record()).encode())
        yield lambda storage=storage: look(storage)


def run_record(plan="plans/x.json"):
    facts = {"run": "r", "sweep": "s", "plan": plan, "host": "h", "began": 1.0, "status": "running"}
    return facts | stamp(60)


def plans(folder, number):
    content = {"sweep": "s", "cells": ["0123456789abcdef"], "stages": [["a", "b"]]}
    for turn, data in enumerate(texts(content, json.dumps, number, "plan")):
        storage = LocalStorage(folder / str(turn))
        what = Planned("s", ("0123456789abcdef",), (("a", "b"),))
        key = write_plan(storage, what)
        storage.replace(key, data)
        storage.create("runs/r.json", json.dumps(run_record(key)).encode())

        def read(storage=storage, key=key, what=what):
            look(storage)
            read_plan(storage, key)
            assert read_plan(storage, write_plan(storage, what)) is not None, "written anew if it is damaged"
            heartbeat(storage, "r", what, key)

        yield read


def runs(folder, number):
    for turn, data in enumerate(texts(run_record(), json.dumps, number, "run")):
        storage = LocalStorage(folder / str(turn))
        storage.create("runs/r.json", data)
        storage.create("stops/r", b"")
        yield lambda storage=storage: (look(storage), list(read_drivers(storage)))


def shares(folder, number):
    share = Share("digits", "net", "a GPU", 1000.0, (Copies(1, 10.0, 0.1, 20.0), Copies(2, 10.0, 0.1, 40.0)))
    for turn, data in enumerate(texts(json.loads(encode_share(share)), json.dumps, number, "share")):
        storage = LocalStorage(folder / str(turn))
        storage.create(file_of("k"), data)

        def read(storage=storage):
            found = read_share(storage, "k")
            assert found is None or (found.sentence and 0 < found.gpus <= 1)

        yield read


def stages(folder, number):
    """The stage's result and the cut in it: each change is Damaged."""
    good = folder / "good"
    good.mkdir()
    (good / "cut.json").write_text(json.dumps({"kept": {"conv": [0, 1]}, "macs": 3}))
    sealed.write(good, "result.json", {"seconds": 1.0, "metric": 2.0})
    draw = random.Random("stage")
    for turn in range(number):
        name = ("result.json", "cut.json")[turn % 2]
        stage = LocalStorage(folder / str(turn))
        place = stage.root / "stages" / "abc"
        place.mkdir(parents=True)
        for file in good.iterdir():
            data = file.read_bytes()
            (place / file.name).write_bytes(damaged(data, draw) if file.name == name else data)
        (place / ".complete").touch()
        yield lambda stage=stage: sealed.intact(stage, "stages/abc", "result.json")


def networks(folder, number):
    content = {
        "format": 2, "model": "test-convnet", "model_params": {}, "prune": [], "kept": {"a": [0, 1]}, "sha256": "0",
        "data": {"name": "digits", "task": "classification", "classes": 10, "in_channels": 1, "image_size": 8,
                 "mean": [0.5], "std": [0.5], "licence": ""},
    }  # fmt: skip
    for data in texts(content, json.dumps, number, "pruned"):
        (folder / "pruned.json").write_bytes(data)
        yield lambda: read_recipe(folder)


def weights(folder, number):
    import torch

    draw = random.Random("weights")
    for data in originals({"a": torch.zeros(2, 3), "b": torch.ones(4)}).values():
        for _ in range(number // 4 + 1):
            (folder / "w.pth").write_bytes(damaged(data, draw))
            yield lambda: read_tensors(folder / "w.pth")


def coco(folder, number):
    for data in texts(COCO, json.dumps, number, "coco"):
        (folder / "i.json").write_bytes(data)
        yield lambda: read_instances(read_json(folder / "i.json"), "i.json", folder)


def labels(folder, number):
    text, draw = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.2 0.1 0.2 0.3\n" * 3, random.Random("labels")
    for _ in range(number):
        (folder / "a.txt").write_bytes(damaged(text, draw))
        yield lambda: list(boxes_of(folder / "a.txt", 2))


READERS = [sweeps, recipes, rows, leases, journals, plans, runs, shares, stages, networks, weights, coco, labels]
FINE = (RaybenchError, sealed.Damaged)  # told in one sentence, or set aside


def raised(reader, folder, number):
    """What a reader raised that it mustn't, and how many files it read or refused."""
    folder.mkdir(parents=True, exist_ok=True)
    wrong, read, refused = [], 0, 0
    for call in reader(folder, number):
        try:
            call()
            read += 1
        except FINE as error:
            refused += 1
            if len(str(error)) >= 20_000:
                wrong.append(f"a message of {len(str(error))} characters")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    return wrong, read, refused


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_no_reader_raises(reader, tmp_path):
    wrong, read, refused = raised(reader, tmp_path / "x", ROUNDS)
    assert wrong == []
    assert read + refused >= ROUNDS


if __name__ == "__main__":
    import sys
    import tempfile

    warnings.simplefilter("ignore")
    for one in READERS:
        with tempfile.TemporaryDirectory() as place:
            bad, fine, no = raised(one, Path(place, "x"), int(sys.argv[1]))
            print(
                f"{one.__name__}: {fine} read, {no} refused, {len(bad)} raised",
                *sorted(set(bad))[:5],
                sep="\n  ",
                flush=True,
            )
