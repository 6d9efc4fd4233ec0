"""Hostile and broken inputs, and what each gets: the rows of docs/hostile.md, which tests/unit/test_hostile.py runs.

python -m tests.hostile_inputs        # writes docs/hostile.md
"""

# ruff: noqa: E501  (a row of the table is a line)
from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raybench.results.arrow import to_table
from raybench.results.columns import SCHEMA_VERSION
from raybench.results.encoding import encode
from raybench.results.schema import row_sha256
from raybench.results.seal import BLANK, ROWS_KEY, SEAL_KEY, VERSION_KEY, rows_mark, sealed
from raybench.storage.sealed import json_sha256
from tests.unit.result_rows import row

DOC = Path(__file__).parents[1] / "docs" / "hostile.md"
GOOD = "name: s\ndatasets: digits\nmodels: test-convnet\nmethods: random\nspeedups: 2\nrecipe: quick\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(9))}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip
ID = "0123456789abcdef"
ENTRY = f"journal/{ID}/1700000000000000000-host-1.json"
CELL = f"results/cells/dataset=digits/model=test-convnet/{ID}.parquet"
RUN, LEASE = "runs/0123456789ab.json", f"leases/{ID}/1"


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        group: the heading under which the document lists it.
        what: the input, in words.
        gets: what the person or the program gets, in words.
        files: path -> content, made in an empty folder; a name that ends in / is a folder, a content `-> x` a link, a
            content `|` a pipe to which nobody writes.
        command: the verb and its arguments, run in that folder.
        code: its exit code.
        says: what its output must contain.
        never: what its output must not contain.
    """

    group: str
    what: str
    gets: str
    files: dict[str, str | bytes]
    command: tuple[str, ...]
    code: int
    says: str
    never: str = "Traceback"


def sweep(what: str, gets: str, text: str | bytes, says: str, code: int = 2, **more: str | bytes) -> Case:
    """A sweep file, given to `raybench validate`."""
    files = {"s.yaml": text, **{name.replace("__", "."): content for name, content in more.items()}}
    return Case("Sweep files", what, gets, files, ("validate", "s.yaml"), code, says)


def recipe(what: str, gets: str, text: str | bytes, says: str, code: int = 2) -> Case:
    """A recipe file that a sweep names."""
    files = {"s.yaml": GOOD.replace("quick", "r.yaml"), "r.yaml": text}
    return Case("Recipes", what, gets, files, ("validate", "s.yaml"), code, says)


def stored(what: str, gets: str, files: dict[str, str | bytes], command: str, code: int, says: str = "") -> Case:
    """Files of a storage, read by a verb."""
    inside = {f"store/{name}": content for name, content in files.items()}
    return Case("Files of a storage", what, gets, inside, tuple(command.split()), code, says)


def odd_row(**values: object) -> bytes:
    """A result file of one row with its own checksum, and odd values."""
    found = {**row(), "trial_id": ID, "model": "test-convnet", **values}
    return encode([{**found, "row_sha256": row_sha256(found)}])


def retyped(**columns: pa.Array) -> bytes:
    """A result file of one row with right checksums, marked as checked, whose columns are of other types."""
    table, sink = (
        to_table([{**row(), "trial_id": ID, "model": "test-convnet"}]).replace_schema_metadata(None),
        io.BytesIO(),
    )
    for name, array in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, array)
    with pq.ParquetWriter(sink, table.schema, store_schema=False) as writer:
        said = {VERSION_KEY: str(SCHEMA_VERSION).encode(), ROWS_KEY: rows_mark(ID, "ok"), SEAL_KEY: BLANK}
        writer.add_key_value_metadata(said)
        writer.write_table(table)
    return sealed(sink.getvalue())


def pruned(what: str, gets: str, content: str | bytes, says: str) -> Case:
    """A pruned.json, given to `raybench.load_pruned`."""
    files = {"net/pruned.json": content, "net/model.safetensors": b""}
    return Case("Pruned networks of others", what, gets, files, ("load_pruned", "net"), 2, says)


def shown(what: str, gets: str, says: str, never: str, *command: str, **values: object) -> Case:
    """A result row with odd values, in a form of output."""
    return Case("Rows in what is written", what, gets, {f"store/{CELL}": odd_row(**values)}, command, 0, says, never)


def sealed_net(data: dict[str, object] | None = None, **changed: object) -> str:
    """A pruned.json with a right checksum and odd values."""
    content = json.loads(NET % "test-convnet") | changed
    content["data"] |= data or {}
    return json.dumps(content | {"sha256": json_sha256(content, "sha256")})


def typed(what: str, gets: str, command: tuple[str, ...], says: str, code: int = 2, **files: str | bytes) -> Case:
    """What is typed."""
    named = {name.replace("__", "."): content for name, content in files.items()}
    return Case("What is typed", what, gets, {"s.yaml": GOOD, **named}, command, code, says)


DEEP = "[" * 100_000
NUMBER = "9" * 5000
STORE = {"results/cells/": ""}  # one without rows
WATCH, GC, BOARD = "watch store --once", "gc store", "leaderboard store"
DRIVER = (
    '{"run": "r", "sweep": "s", "plan": "plans/x.json", "host": "h", "pid": 1, "began": 1.0, "status": "running", '
    '"time": 1.0, "ttl": 60, "machine": "m", "started": null}'
)
NET = (
    '{"format": 2, "model": "%s", "model_params": {}, "prune": [], "data": {"name": "digits", "task": "classification", '
    '"classes": 10, "in_channels": 1, "image_size": 8, "mean": [0.5], "std": [0.5], "licence": ""}, "kept": {}, "weights_sha256": null, "sha256": "0"}'
)

MARKUP = "m\x1b[2J\n# <script>alert(1)</script> [x](http://y)"
MARKDOWN = ("leaderboard", "store", "--format", "markdown")

CASES = (
    sweep("empty", "a sentence", "", "expected"),
    sweep("binary", "a sentence", bytes(range(256)), "s.yaml"),
    sweep("not UTF-8", "a sentence", b"name: caf\xe9\n", "s.yaml"),
    sweep("UTF-16", "a sentence", GOOD.encode("utf-16"), "not UTF-8"),
    sweep("a list", "file, what was found, what was expected", "- a\n- b\n", "found a list"),
    sweep("a single word", "file, what was found, what was expected", "hello", "s.yaml"),
    sweep("an alias bomb (billion laughs)", "refused before anything is expanded", BOMB, "s.yaml"),
    sweep("brackets nested 100,000 deep", "a sentence", f"name: {DEEP}", "s.yaml"),
    sweep("a mapping nested 5,000 deep", "a sentence", "".join(f"{' ' * n}a:\n" for n in range(0, 2000)), "s.yaml"),
    sweep("`!!python/object/apply:os.system`", "refused; nothing is run", 'name: !!python/object/apply:os.system ["true"]', "tag"),
    sweep("two documents", "file and line", GOOD + "---\n" + GOOD, "s.yaml:7"),
    sweep("`!!binary`", "refused", GOOD.replace("name: s", "name: !!binary aGk="), "!!binary"),
    sweep("`<<`, a key that merges mappings", "unknown", "<<: {name: t}\n" + GOOD, "<<"),
    sweep("a key twice", "file and line", GOOD + "name: t\n", "name"),
    sweep("a tab as indentation", "file and line", "name: s\n\tdatasets: digits\n", "s.yaml:2"),
    sweep("an unknown key", "the nearest key", GOOD + "seed: 0\n", "Did you mean 'seeds'"),
    sweep("an unknown method", "the nearest method", GOOD.replace("random", "randon"), "Did you mean 'random'"),
    sweep("NaN as a speed-up", "file, line, bound", GOOD.replace("speedups: 2", "speedups: .nan"), "speedups"),
    sweep("infinity as a speed-up", "file, line, bound", GOOD.replace("speedups: 2", "speedups: .inf"), "speedups"),
    sweep("a speed-up of 5,000 digits", "file, line, bound", GOOD.replace("speedups: 2", f"speedups: {NUMBER}"), "s.yaml"),
    sweep("a negative seed", "file, line, bound", GOOD + "seeds: -1\n", "seeds"),
    sweep("a grid of over a million cells", "refused with the number", GOOD.replace("speedups: 2", f"speedups: {[1.5 + n / 1e4 for n in range(2000)]}") + f"seeds: {list(range(1000))}\n", "cells"),
    sweep("a time limit without an end", "file, line, what a duration is", GOOD + "resources: {timeout: .inf}\n", "expected a duration"),
    sweep("a list for a name", "file, line, type", GOOD.replace("name: s", "name: [1, 2]"), "name"),
    sweep("a name that climbs out of its folder", "file, line, what a name is", GOOD.replace("name: s", "name: ../../s"), "name"),
    sweep("a name with an escape sequence", "shown as an escape", GOOD.replace("name: s", 'name: "\\e[2J"'), "\\x1b"),
    sweep("a name with a NUL", "file, line, what a name is", GOOD.replace("name: s", 'name: "a\\0b"'), "name"),
    sweep("extends itself", "the circle", "extends: s.yaml\n", "s.yaml"),
    sweep("two files that extend each other", "the circle", "extends: t.yaml\n", "extends", t__yaml="extends: s.yaml\n"),
    sweep("extends a missing file", "the file", "extends: gone.yaml\n", "gone.yaml"),
    sweep("weights that aren't there", "the file", GOOD.replace("models: test-convnet", "models: {name: test-convnet, weights: gone.pth}"), "there is no such file"),
    Case("Sweep files", "a folder", "a sentence", {"s.yaml/": ""}, ("validate", "s.yaml"), 2, "s.yaml"),
    Case("Sweep files", "a link to itself", "a sentence", {"s.yaml": "-> s.yaml"}, ("validate", "s.yaml"), 2, "s.yaml"),
    Case("Sweep files", "bytes without an end (`/dev/zero`)", "a sentence after 16 MiB", {}, ("validate", "/dev/zero"), 2, "more than 16 MiB"),
    Case("Sweep files", "a storage with a NUL", "what was found", {"s.yaml": GOOD + 'storage: "a\\0b"\n'}, ("plan", "s.yaml"), 2, "a\\x00b"),
    Case("Sweep files", "none", "a sentence, and the shipped sweeps", {}, ("validate", "nothing-like-it"), 2, "no such file"),
    sweep("over 100,000 values", "refused before the rest is read", GOOD + f"seeds: [{'1, ' * 100_001}]\n", "more than 100,000 keys and values"),
    sweep("a method's name of 1 MB", "its start, and the nearest methods", GOOD.replace("random", "r" * 1_000_000), "unknown method"),
    sweep("dates, numbers and `~` as keys", "unknown", GOOD + "2020-01-01: 1\n17: 1\n~: 1\n", "2020-01-01: unknown key"),
    sweep("a list as a key", "file and line", GOOD + "? [a, b]\n: 1\n", "found a list or mapping as a key"),
    sweep("an anchor that holds itself", "refused", GOOD.replace("methods: random", "methods: &m [*m]"), "found the alias *m"),
    sweep("`%YAML 9.9`", "file and line", "%YAML 9.9\n---\n" + GOOD, "incompatible YAML"),
    sweep("a hexadecimal number of 20,000 digits", "file, line, its start", GOOD + f"seeds: 0x{'f' * 20_000}\n", "expected a whole number"),
    sweep("extends a pipe to which nobody writes", "file and line", "extends: p\n", "expected a file", p="|"),
    Case("Sweep files", "a secret of the environment in the storage's address", "refused by its name, without its value", {"s.yaml": GOOD + "storage: s3://theirs/$AWS_SECRET_ACCESS_KEY\n"}, ("plan", "s.yaml"), 2, "by its name a secret"),
    Case("Sweep files", "a password in the storage's address", "refused without repeating it", {"s.yaml": GOOD + "storage: s3://KEY:hunter2@bucket/x\n"}, ("plan", "s.yaml"), 2, "never from the address", "hunter2"),
    Case("Sweep files", "a key in the storage's address", "refused without repeating it", {"s.yaml": GOOD + "storage: s3://bucket/x?secret_access_key=hunter2\n"}, ("plan", "s.yaml"), 2, "never from the address", "hunter2"),
    Case("Sweep files", "a storage with an open bracket", "a sentence", {"s.yaml": GOOD + "storage: 's3://[::1/x'\n"}, ("plan", "s.yaml"), 2, "Invalid IPv6 URL"),
    Case("Sweep files", "a storage whose name has 5,000 letters", "its start", {"s.yaml": GOOD + f"storage: {'a' * 5000}\n"}, ("plan", "s.yaml"), 2, "File name too long"),
    recipe("empty", "a sentence", "", "r.yaml"),
    recipe("binary", "a sentence", bytes(range(256)), "r.yaml"),
    recipe("a list", "what was found", "[1, 2]", "r.yaml"),
    recipe("an unknown key", "the nearest key", "extends: quick\nfinetun: {epochs: 1}\n", "Did you mean 'finetune'"),
    recipe("NaN as a learning rate", "file, line, bound", "extends: quick\nbase: {lr: .nan}\n", "lr"),
    recipe("a billion epochs", "file, line, bound", "extends: quick\nbase: {epochs: 1000000000}\n", "epochs"),
    recipe("extends itself", "the circle", "extends: r.yaml\n", "r.yaml"),
    recipe("brackets nested 100,000 deep", "a sentence", f"base: {DEEP}", "r.yaml"),
    stored("a run record: empty", "left out", {RUN: ""}, WATCH, 3),
    stored("a run record: half", "left out", {RUN: DRIVER[:60]}, WATCH, 3),
    stored("a run record: a list", "left out", {RUN: "[]"}, WATCH, 3),
    stored("a run record: words for numbers", "left out", {RUN: DRIVER.replace("1.0", '"soon"')}, WATCH, 3),
    stored("a run record: a year of 300 digits", "left out", {RUN: DRIVER.replace("1.0", "1e300")}, WATCH, 3),
    stored("a run record: a plan outside the storage", "the plan counts as none", {RUN: DRIVER.replace("plans/x.json", "../../etc/passwd")}, WATCH, 3, "total is unknown"),
    stored("a run record: an escape sequence as host", "shown as an escape", {RUN: DRIVER.replace('"h"', '"\\u001b[2J"')}, WATCH, 3, "\\x1b[2J"),
    stored("a run record: damaged", "left alone", {RUN: DRIVER[:60]}, GC, 0, "nothing to remove"),
    stored("a run record: nested 100,000 deep", "left out", {RUN: DEEP}, WATCH, 3),
    stored("a run record: a link to `/dev/zero`", "left out", {RUN: "-> /dev/zero"}, WATCH, 3),
    stored("a run record: a link to itself", "left out", {RUN: f"-> {Path(RUN).name}"}, WATCH, 3),
    stored("a run record: a pipe to which nobody writes", "left out, without waiting", {RUN: "|"}, WATCH, 3),
    stored("a run record: 10 MB of numbers", "left out", {RUN: f"[{'1, ' * 3_000_000}1]"}, WATCH, 3),
    stored("a run record: markup of rich as host", "shown as it is", {RUN: DRIVER.replace('"h"', '"[/bold]"')}, WATCH, 3, "driver: [/bold]"),
    stored("a plan: empty", "its total is unknown", {RUN: DRIVER, "plans/x.json": ""}, WATCH, 3, "total is unknown"),
    stored("a plan: half", "its total is unknown", {RUN: DRIVER, "plans/x.json": '{"sweep": "s", "cells": ['}, WATCH, 3, "total is unknown"),
    stored("a plan: numbers for ids", "its total is unknown", {RUN: DRIVER, "plans/x.json": '{"sweep": "s", "cells": [1], "stages": []}'}, WATCH, 3, "total is unknown"),
    stored("a journal entry: empty", "left out", {ENTRY: "", RUN: DRIVER}, WATCH, 3),
    stored("a journal entry: half", "left out", {ENTRY: '{"key": "0123', RUN: DRIVER}, WATCH, 3),
    stored("a journal entry: without a status", "left out", {ENTRY: '{"key": "a"}', RUN: DRIVER}, WATCH, 3),
    stored("a journal entry: a name that isn't ours", "read last", {"journal/x/y": "{}", RUN: DRIVER}, WATCH, 3),
    stored("a journal entry: stages that are none", "left out", {ENTRY: '{"key": "a", "kind": "cell", "label": "l", "host": "h", "pid": 1, "started": 1, "status": "ok", "stages": [3], "seconds": 1}', RUN: DRIVER}, WATCH, 3),
    stored("a lease: empty", "that of a dead holder", {LEASE: "", RUN: DRIVER}, WATCH, 3),
    stored("a lease: empty", "listed to be removed", {LEASE: ""}, GC, 0, "1 item to remove"),
    stored("a lease: dated in 2099", "listed to be removed", {LEASE: '{"time": 4e9, "ttl": 60, "machine": "m", "pid": 1, "started": null}'}, GC, 0, "1 item to remove"),
    stored("a lease: NaN, infinity", "listed to be removed", {LEASE: '{"time": NaN, "ttl": Infinity, "machine": "m", "pid": 1}'}, GC, 0, "1 item to remove"),
    stored("a lease: a word as date", "listed to be removed", {LEASE: '{"time": "tomorrow", "ttl": 60, "machine": "m", "pid": 1}'}, GC, 0, "1 item to remove"),
    stored("a lease: a folder in its place", "listed to be removed", {f"{LEASE}/x": ""}, GC, 0, "1 item to remove"),
    stored("a lease: generation 10^200", "listed to be removed", {f"leases/{ID}/{10**200}": ""}, GC, 0, "1 item to remove"),
    stored("a lease: a name that is no number", "listed to be removed", {f"leases/{ID}/x": "{}"}, GC, 0, "1 item to remove"),
    stored("a result file: empty", "named and left out", {CELL: ""}, BOARD, 2, "left out"),
    stored("a result file: text", "named and left out", {CELL: "PAR1 hello PAR1"}, BOARD, 2, "left out"),
    stored("a result file: a link to `/dev/zero`", "named and left out", {CELL: "-> /dev/zero"}, BOARD, 2, "left out"),
    stored("a result file: a pipe to which nobody writes", "named and left out, without waiting", {CELL: "|"}, BOARD, 2, "left out"),
    stored("a result file: a footer of 2 GB", "named and left out", {CELL: b"PAR1" + b"\0" * 40 + b"\xff\xff\xff\x7fPAR1"}, BOARD, 2, "left out"),
    stored("a result file: another name", "named and left out", {"results/cells/dataset=digits/model=x/evil.parquet": ""}, BOARD, 2, ""),
    Case("Files of a storage", "a result file: empty", "named and left out", {f"store/{CELL}": ""}, ("query", "SELECT * FROM trials", "store"), 2, ""),
    stored("a result file: a folder in its place", "named and left out", {f"{CELL}/": ""}, BOARD, 2, ""),
    stored("a result row with a right checksum: no metric", "named and left out", {CELL: odd_row(metric_final=None)}, BOARD, 2, "metric_final: found null"),
    stored("a result row with a right checksum: an asked speed-up of 0", "named and left out", {CELL: odd_row(speedup_target=0.0)}, BOARD, 2, "speedup_target: expected"),
    stored("a result row with a right checksum: its trial is a list", "a sentence", {CELL: odd_row(trial="[]")}, f"show {ID} --results store", 2, "trial: expected"),
    stored("a result row with a right checksum: its traceback is `../../x`", "a sentence", {CELL: odd_row(traceback_path="../../x")}, f"show {ID} --results store", 2, "traceback_path: expected"),
    Case("Files of a storage", "a storage to merge: a result row with NaN as metric", "named and left out", {f"a/{CELL}": odd_row(metric_final=float("nan"))}, ("merge", "b", "a"), 0, "left out"),
    stored("a result file with a right checksum: dates as metrics", "named and left out", {CELL: retyped(metric_final=pa.array([10], pa.date32()))}, BOARD, 2, "Unsupported cast from date32"),
    stored("a result file with a right checksum: lists of structs as speed-ups", "named and left out", {CELL: retyped(speedup=pa.array([[{"a": [1.0]}]]))}, BOARD, 2, "Unsupported cast from list"),
    Case("Files of a storage", "a storage to merge: numbers as provenance", "named and left out", {f"a/{CELL}": retyped(provenance=pa.array([1]))}, ("merge", "b", "a"), 0, "Unsupported cast from int64"),
    Case("Files of a storage", "a storage to merge: a model's name of 100,000 letters", "named and left out", {f"a/{CELL}": odd_row(model="m" * 100_000)}, ("merge", "b", "a"), 0, "model: expected at most 240 characters"),
    stored("an attempt: empty", "named and left out", {f"results/attempts/{ID}-1.parquet": ""}, BOARD, 2, "left out"),
    stored("an attempt: number 10^30", "named and left out", {f"results/attempts/{ID}-{10**30}.parquet": ""}, BOARD, 2, "left out"),
    stored("a stop request of no run", "listed to be removed", {"stops/x": ""}, GC, 0, "1 item to remove"),
    stored("a link that leads out", "not followed by a removal", {"stops/x": "-> /etc/hostname"}, "gc store --delete", 0, "1 item removed"),
    stored("a folder of links in a circle", "listed without an end", {"stages/a": "-> ../stages"}, GC, 0),
    stored("`runs`: a link to `/proc`", "named and not followed", {"runs": "-> /proc"}, GC, 0, "found a link to /proc"),
    stored("`runs`: a link to `/`", "named and not followed", {"runs": "-> /", ENTRY: ""}, WATCH, 3, "found a link to /,"),
    stored("`runs`: a file", "named", {"runs": "x", ENTRY: ""}, WATCH, 3, "runs: found a file, expected a folder"),
    stored("`journal`: a link to itself", "named and not followed", {"journal": "-> journal", RUN: DRIVER}, WATCH, 3, "found a link to journal"),
    stored("`leases`: a link to another folder", "named and not followed", {"leases": "-> ../mine", "../mine/x": ""}, "gc store --delete", 0, "nothing to remove"),
    stored("`.tmp`, for unfinished writes: a link to another folder", "named and not followed", {".tmp": "-> ../mine", "../mine/x": ""}, "gc store --delete --older 1", 0, "nothing to remove"),
    stored("`results/cells`: a file", "a sentence", {"results/cells": "x"}, "compact store", 2, "results/cells: found a file, expected a folder"),
    stored("`results/cells`: a link to `/proc`", "named and not followed", {"results/cells": "-> /proc"}, BOARD, 2, "found a link to /proc"),
    Case("Files of a storage", "`results/cells`: a file", "a sentence, before any work", {"s.yaml": GOOD, "store/results/cells": "x"}, ("run", "s.yaml", "--local", "--storage", "store"), 2, "results/cells: found a file, expected a folder"),
    Case("Files of a storage", "`results/cells`: a link to itself", "a sentence, before any work", {"s.yaml": GOOD, "store/results/cells": "-> cells"}, ("run", "s.yaml", "--local", "--storage", "store"), 2, "found a link to cells"),
    Case("Files of a storage", "`results/cells` of the target: a file", "a sentence", {f"a/{CELL}": odd_row(), "store/results/cells": "x"}, ("merge", "store", "a"), 2, "results/cells: found a file, expected a folder"),
    stored("a name that isn't UTF-8", "shown as an escape", {"stops/\udce9": ""}, GC, 0, "\\udce9"),
    Case("Files of a storage", "a storage to merge: empty result file", "named and left out", {f"a/{CELL}": ""}, ("merge", "b", "a"), 0, "left out"),
    Case("Files of a storage", "a storage to merge: attempts that aren't Parquet", "named and left out", {f"a/results/attempts/{ID}-1.parquet": b"\0" * 100}, ("merge", "b", "a"), 0, "left out"),
    Case("Files of a storage", "a storage to merge: a file instead of a folder", "a sentence", {"a": "x"}, ("merge", "b", "a"), 2, "found a file"),
    pruned("pruned.json: empty", "a sentence", "", "can't be read"),
    pruned("pruned.json: a list", "a sentence", "[]", "expected a mapping"),
    pruned("pruned.json: another format", "a sentence", '{"format": 99}', "reads formats"),
    pruned("pruned.json: code of a stranger (`os:system`)", "refused unless trusted by name", NET % "os:system", ""),
    pruned("pruned.json: edited", "refused by its checksum", NET % "test-convnet", "found other content than was saved"),
    pruned("pruned.json: NaN", "a sentence", NET.replace("0.5", "NaN") % "test-convnet", "found NaN"),
    pruned("pruned.json: a width of 10^9", "refused before anything is built", sealed_net(model_params={"width": 10**9}), "expected at most 65,536"),
    pruned("pruned.json: a width of 20,000", "refused before memory is filled", sealed_net(model_params={"width": 20_000}), "found a network of over 14.4 GB"),
    pruned("pruned.json: 10^7 classes", "refused before memory is filled", sealed_net({"classes": 10**7}), "found a network of over 0.6 GB"),
    pruned("pruned.json: images of 65,536 pixels a side", "refused before anything is computed", sealed_net({"image_size": 65_536, "in_channels": 4096}), "65536x65536"),
    pruned("pruned.json: nested 100,000 deep", "a sentence", DEEP, "pruned.json"),
    pruned("pruned.json: not UTF-8", "a sentence", b"\xff\xfe{}", "can't be read"),
    shown("HTML, a link and a heading as device, in Markdown", "escaped, in one line", "\\<script\\>", "<script>", *MARKDOWN, device=MARKUP),
    shown("HTML, a link and a heading as device, in Markdown", "escaped, in one line", "\\[x\\]", "\n# ", *MARKDOWN, device=MARKUP),
    shown("HTML, a link and a heading as metric, in a model card", "escaped, in one line", "\\<script\\>", "<script>", "card_of", "store", ID, metric_name=MARKUP),
    shown("HTML, a link and a heading as metric, in a model card", "escaped, in one line", "\\[x\\]", "\n# <", "card_of", "store", ID, metric_name=MARKUP),
    shown("a formula, in CSV", "marked as text", "'=HYPERLINK", "\n=HYPERLINK", "query", "store", "SELECT device FROM trials", "--format", "csv", device='=HYPERLINK("http://x")'),
    shown("an escape sequence, in CSV", "shown as an escape", "a\\x1b[2J", "\x1b", "query", "store", "SELECT device FROM trials", "--format", "csv", device="a\x1b[2J"),
    shown("an escape sequence, in JSON", "shown as an escape", "a\\u001b[2J", "\x1b", "query", "store", "SELECT device FROM trials", "--format", "json", device="a\x1b[2J"),
    shown("a command of LaTeX", "escaped", "textbackslash{}input", "\\input", "leaderboard", "store", "--format", "latex", metric_name="\\input{/etc/passwd}"),
    shown("an escape sequence, in LaTeX", "a space", "a [2J", "\x1b", "leaderboard", "store", "--format", "latex", metric_name="a\x1b[2J"),
    shown("an escape sequence and markup, in a table", "shown as they are", "m\\x1b[2J", "\x1b", "show", ID, "--results", "store", device=MARKUP),
    typed("a storage that is a file", "a sentence", ("run", "s.yaml", "--local", "--storage", "s.yaml"), "found a file"),
    typed("a storage of an unknown scheme", "a sentence", ("plan", "s.yaml", "--storage", "ftp://x/y"), "found scheme 'ftp'"),
    typed("a bucket without a name", "a sentence", ("plan", "s.yaml", "--storage", "s3://"), "s3://"),
    typed("a results folder that isn't there", "a sentence", ("leaderboard", "gone"), "no such folder"),
    typed("an id that is no id", "a sentence", ("show", "../../etc/passwd", "--results", "."), "no trial"),
    typed("an open quote, in SQL", "a sentence", ("query", ".", "SELECT '"), "unterminated", **STORE),
    typed("an SQL that reads a file", "refused", ("query", ".", "SELECT * FROM read_csv('/etc/passwd')"), "disabled", **STORE),
    typed("an SQL that writes a file", "refused", ("query", ".", "COPY (SELECT 1) TO 'evil'"), "expected a SELECT", **STORE),
    typed("two SQL commands", "refused", ("query", ".", "SELECT 1; DROP TABLE trials"), "expected a SELECT", **STORE),
    typed("an unknown verb", "the nearest verb", ("rum", "s.yaml"), "Did you mean 'run'"),
    typed("an address that is none", "a sentence", ("run", "s.yaml", "--storage", "o", "--address", "..:1"), "no Ray cluster answers"),
    typed("a port above 65535", "a sentence", ("run", "s.yaml", "--storage", "o", "--address", "localhost:99999"), "no Ray cluster answers"),
    typed("a plug-in that isn't there", "a sentence", ("plan", "s.yaml", "--plugin", "gone.py"), "gone.py"),
    typed("a plug-in that is no Python", "file and line", ("plan", "s.yaml", "--plugin", "p.py"), "p.py", p__py="def ("),
    typed("a plug-in in an unknown encoding", "a sentence", ("plan", "s.yaml", "--plugin", "p.py"), "unknown encoding", p__py="# coding: nope\n"),
    typed("a plug-in of brackets nested 5,000 deep", "file and line", ("plan", "s.yaml", "--plugin", "p.py"), "p.py:1", p__py="x = " + "(" * 5000),
    typed("a plug-in of NUL bytes", "a sentence", ("plan", "s.yaml", "--plugin", "p.py"), "p.py", p__py="\0"),
)  # fmt: skip


def document() -> str:
    """The Markdown of docs/hostile.md."""
    lines = [
        "# Hostile and broken inputs", "",
        "What each input gets. None of them ends in a traceback, runs code, hangs, or changes a file that isn't its own.",
        "Every row is a test ([tests/unit/test_hostile.py](../tests/unit/test_hostile.py)); damaged stages, rows and",
        "weights have tables of their own in [results](results.md#damage-and-identity). Beside them",
        "[a test](../tests/unit/test_reader_fuzz.py) changes bits, lengths and types of every kind of file at random.",
    ]  # fmt: skip
    group = ""
    for case in CASES:
        if case.group != group:
            group = case.group
            lines += ["", f"## {group}", "| input | command | it gets | code |", "|---|---|---|---|"]
        command = " ".join(case.command)  # without `raybench`: most of them are no commands that work
        lines.append(f"| {case.what} | `{command}` | {case.gets} | {case.code} |")
    return "\n".join([*lines, "", END])


END = """## What can't be told
A file of results has checksums, and says whether its rows were checked when it was written. There is no secret in
either: who can write the file can write both, and as well a plausible figure. `raybench run` goes by names and checksums
and doesn't open each row again; of a stranger's results `raybench merge` checks every row, and copies none that
raybench can't have written.

## The network, the token and folders
Ray that `raybench run` starts listens on loopback alone ([test](../tests/cluster/test_network.py)). A token that is made
for each run keeps other users of the machine out; it is in no log and in no title of a process. Ray's files lie in
`raybench-UID` in the temporary folder, which is this user's alone (0700); raybench refuses it if it belongs to another
one. With `RAY_TMPDIR`, or where the temporary folder has a long name, Ray's own `/tmp/ray` is used.

Nodes of a cluster (`--address`) must reach each other, so there ports are what the head was started with:
see [cluster/](../cluster/README.md).

| process | listens on | of a Ray that `run` starts |
|---|---|---|
| driver and each worker | a port each, for calls and objects | 127.0.0.1 |
| gcs_server | one port | 127.0.0.1 |
| raylet | two ports | 127.0.0.1 |
| DashboardAgent | up to three ports, one of them 52365 if it is free | 127.0.0.1 |
| RuntimeEnvAgent | one port | 127.0.0.1 |
"""


if __name__ == "__main__":
    DOC.write_text(document())
