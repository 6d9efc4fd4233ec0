"""Pieces of the pipeline by hand: locks, outputs of networks, pruning in memory, what can be pruned, messages."""

from __future__ import annotations

import fcntl
import os
import types
from collections import OrderedDict, namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

import raybench
from raybench import registry
from raybench.errors import UserError
from raybench.pipeline import exclusive, in_memory, inspection, outputs
from raybench.pipeline.exclusive import Machine
from raybench.selection.records import Cut
from tests.unit.errors import error_of

NET = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
EXAMPLE = torch.zeros(2, 8)


def test_the_holder_of_a_lock_is_read_from_the_systems_list(tmp_path, monkeypatch) -> None:
    handle = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    file = os.fstat(handle)
    name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    lines = [
        f"1: POSIX  ADVISORY  WRITE 11 {name} 0 EOF", f"2: FLOCK  ADVISORY  READ 12 {name} 0 EOF",
        "3: FLOCK  ADVISORY  WRITE 13 00:00:1 0 EOF", "4: -> FLOCK", f"5: FLOCK  ADVISORY  WRITE 14 {name} 0 EOF",
        f"6: FLOCK  ADVISORY  WRITE 15 {name} 0 EOF",
    ]  # fmt: skip
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self: "\n".join(lines) if str(self) == "/proc/locks" else real(self))
    assert exclusive._holder(handle) == 14
    del lines[4:]
    assert exclusive._holder(handle) == 0

    def gone(self):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", gone)
    assert (exclusive._holder(handle), exclusive.is_stopped(1)) == (0, False)
    for state, stopped in (("T", True), ("t", True), ("S", False), ("R", False)):
        monkeypatch.setattr(Path, "read_text", lambda self, state=state: f"7 (a) T) b) {state} 1 2")
        assert exclusive.is_stopped(7) is stopped
    os.close(handle)


def test_a_lock_is_asked_for_until_its_deadline(tmp_path, monkeypatch) -> None:
    held, other = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    now, slept = [100.0], []
    monkeypatch.setattr(exclusive.time, "monotonic", lambda: now[0])

    def sleep(seconds) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(exclusive.time, "sleep", sleep)
    assert exclusive.lock_by(held, 0.0)
    assert not exclusive.lock_by(other, 100.01)
    assert slept == [0.004] * 3
    assert not exclusive.lock_by(other, 100.01, fcntl.LOCK_SH)
    fcntl.flock(held, fcntl.LOCK_SH)
    assert exclusive.lock_by(other, 0.0, fcntl.LOCK_SH)
    assert not exclusive.lock_by(other, 0.0)
    assert (exclusive.WAIT_S, exclusive.NOTICE_S, exclusive.STOPPED_S) == (60.0, 10.0, 60.0)


def test_long_waits_are_told_with_the_holder(tmp_path, monkeypatch) -> None:
    node, said = Machine(tmp_path / "locks"), []
    for holder, stopped, locks, expected in (
        (0, False, [False, True], ["process unknown takes a timing"]),
        (7, False, [False, False, True], ["process 7 takes a timing"]),
        (7, True, [False, True], ["process 7 takes a timing and is stopped"]),
    ):
        answers = iter(locks)
        monkeypatch.setattr(exclusive, "lock_by", lambda *args, answers=answers: next(answers))
        monkeypatch.setattr(exclusive, "_holder", lambda handle, holder=holder: holder)
        monkeypatch.setattr(exclusive, "is_stopped", lambda pid, stopped=stopped: stopped and pid == 7)
        node._notice = said.append
        assert node._wait_for(3)
        assert (said, next(answers, None)) == (expected, None)
        said.clear()
    monkeypatch.setattr(exclusive, "lock_by", lambda *args: True)
    assert node._wait_for(3)
    assert said == []


def test_locks_lie_in_a_folder_of_this_user(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert exclusive.user_folder() == tmp_path / f"raybench-{os.getuid()}"
    Machine()
    assert {file.name for file in exclusive.user_folder().iterdir()} == {"gate.lock", "node.lock"}
    (tmp_path / "file").touch()
    assert error_of(exclusive.own_folder, tmp_path / "file", error=(UserError, FileExistsError))


Named = namedtuple("Named", "logits other")
SCORES, OTHER = torch.zeros(2, 5), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("output", "scores", "tensors", "described"),
    [
        (SCORES, SCORES, [SCORES], "a tensor (2, 5)"),
        ({"out": SCORES, "aux": OTHER}, SCORES, [SCORES, OTHER], "dict of out: tensor (2, 5), aux: tensor (2, 3)"),
        ({"x": OTHER, "logits": SCORES}, SCORES, [OTHER, SCORES], "dict of x: tensor (2, 3), logits: tensor (2, 5)"),
        ({"out": OTHER, "logits": SCORES}, SCORES, [OTHER, SCORES],
         "dict of out: tensor (2, 3), logits: tensor (2, 5)"),
        ({"a": SCORES, "b": 1}, SCORES, [SCORES], "dict of a: tensor (2, 5), b: int"),
        ({"a": SCORES, "b": OTHER}, None, [SCORES, OTHER], "dict of a: tensor (2, 5), b: tensor (2, 3)"),
        ((SCORES,), SCORES, [SCORES], "tuple of 0: tensor (2, 5)"),
        ([SCORES, [OTHER]], SCORES, [SCORES, OTHER], "list of 0: tensor (2, 5), 1: list"),
        (Named(SCORES, OTHER), SCORES, [SCORES, OTHER], "Named of logits: tensor (2, 5), other: tensor (2, 3)"),
        (OrderedDict(x=None), None, [], "OrderedDict of x: NoneType"),
        (types.SimpleNamespace(logits=SCORES), SCORES, [SCORES], "SimpleNamespace of logits: tensor (2, 5)"),
        ("text", None, [], "str"),
        (None, None, [], "NoneType"),
        (dict.fromkeys("abcdefg", 1), None, [], "dict of a: int, b: int, c: int, d: int, e: int"),
    ],
)  # fmt: skip
def test_what_is_found_in_outputs(output, scores, tensors, described) -> None:
    assert outputs._scores(output) is scores
    assert all(one is two for one, two in zip(outputs._tensors(output), tensors, strict=True))
    assert outputs._described(output) == described


def test_containers_are_searched_five_levels_deep() -> None:
    nested = SCORES
    for _ in range(5):
        nested = [nested]
    assert list(outputs._tensors(nested))
    assert not list(outputs._tensors([nested]))
    loop = types.SimpleNamespace(tensor=SCORES)
    loop.self = loop
    assert all(one is SCORES for one in outputs._tensors(loop))


def test_labels_of_class_scores() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    labels = torch.tensor([1, 2])
    assert torch.equal(outputs.class_loss(scores, labels), nn.functional.cross_entropy(scores, labels))
    assert torch.isfinite(outputs.class_loss(scores, torch.tensor([0, -100])))
    for label in (3, -1, -99, -101):
        assert error_of(outputs.class_loss, scores, torch.tensor([0, label])) == (
            f"calibration: found label {label}, expected 0 to 2: the network has 3 classes"
        )
    assert error_of(outputs.class_loss, scores, torch.zeros(2, 1, dtype=torch.int64)) == (
        "calibration: found labels (2, 1) for class scores (2, 3), expected (2,)"
    )
    maps = torch.zeros(2, 3, 4, 5)
    assert float(outputs.class_loss(maps, torch.zeros(2, 4, 5, dtype=torch.int64))) == pytest.approx(1.0986, abs=1e-4)
    number = (torch.ones(1, 1, requires_grad=True) * 2,)
    assert outputs.checked(lambda output, _: output[0])(number, labels).shape == ()
    for found, said in ((3.0, "float"), (torch.ones(1), "a tensor (1,)"), (scores.requires_grad_(), "a tensor (2, 3)")):
        assert error_of(outputs.checked(lambda *_, found=found: found), 0, labels) == (
            f"loss: the function returned {said}, expected one number that depends on the output"
        )


ARGUMENTS = [
    ({"model": 3}, "model: found int 3, expected a torch.nn.Module, such as a built network"),
    ({"model": nn.Linear}, "model: found the class Linear, expected a torch.nn.Module, such as a built network"),
    ({"example": 3}, "example: found int 3, expected a batch of at least one image as the network takes it"),
    ({"example": torch.zeros(8)},
     "example: found a tensor (8,), expected a batch of at least one image as the network takes it"),
    ({"example": torch.zeros(0, 8)},
     "example: found a tensor (0, 8), expected a batch of at least one image as the network takes it"),
    ({"speedup": True}, "speedup: found True, expected a number above 1"),
    ({"loss": 3}, "loss: found int 3, expected a function of (output, labels)"),
    ({"round_to": 0}, "round_to: found 0, expected a whole number of at least 1"),
    ({"batch_size": 0}, "batch_size: found 0, expected a whole number of at least 1"),
    ({"batch_size": 2.0}, "batch_size: found 2.0, expected a whole number of at least 1"),
    ({"seed": -1}, "seed: found -1, expected a whole number of at least 0"),
    ({"seed": True}, "seed: found True, expected a whole number of at least 0"),
    ({"parts": "mlp"}, "parts: found str 'mlp', expected a list of names, such as ['mlp']"),
    ({"parts": "x"}, "parts: found str 'x', expected a list of names, such as ['mlp']"),
    ({"parts": ["mpl"]}, "parts: unknown part 'mpl'. Did you mean 'mlp'? Known: embed, head-dim, heads, mlp"),
    ({"keep": 3}, "keep: found int 3, expected a list of names, such as [3]"),
    ({"only": "0"}, "only: found str '0', expected a list of names, such as ['0']"),
    ({"criterion": 3}, "criterion: found int 3, expected a name or an Importance"),
    ({"criterion": nn.Linear},
     "criterion: found the class Linear, expected a name or an Importance; give an object: Linear()"),
    ({"criterion": "lamp", "params": {"p": 1}}, "lamp has no parameter 'p'. Known: none"),
    ({"criterion": "cp", "params": {"points": 0}}, "cp: points: found 0, expected at least 1"),
    ({"criterion": "taylor"},
     "TaylorPruning needs gradients: give calibration=(images, labels), normalised as the network expects them"),
    ({"calibration": 3}, "calibration: found int 3, expected two tensors: (images, labels)"),
    ({"calibration": (EXAMPLE,)}, None),
    ({"calibration": (EXAMPLE.long(), EXAMPLE)},
     "calibration: found images of torch.int64, expected floats, normalised for the network"),
    ({"calibration": (EXAMPLE, EXAMPLE)}, "calibration: found labels of torch.float32, expected class numbers (int64)"),
    ({"calibration": (EXAMPLE, torch.zeros(3, dtype=torch.int64))},
     "calibration: found 2 images and 3 labels; expected one label an image"),
    ({"calibration": (EXAMPLE[:, :7], torch.zeros(2, dtype=torch.int64))},
     "calibration: found images (2, 7), expected some like the example (2, 8)"),
    ({"calibration": (EXAMPLE[None], torch.zeros(1, dtype=torch.int64))},
     "calibration: found images (1, 2, 8), expected some like the example (2, 8)"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ARGUMENTS)))
def test_arguments_that_cannot_be_are_named(case) -> None:
    given, message = ARGUMENTS[case]
    found = error_of(raybench.prune, **({"model": NET, "example": EXAMPLE, "speedup": 2} | given))
    name = type(registry.importance.load("taylor")()).__name__
    if message is None:
        assert found.startswith("calibration: found tuple (tensor(")
        assert found.endswith(", expected two tensors: (images, labels)")
        return
    assert found == message.replace("TaylorPruning", name)


def test_a_network_is_pruned_with_everything_that_was_given(monkeypatch) -> None:
    calls = {}
    chosen = Cut({"0": (0, 1)}, 3.0, 2.5, 100, 40, 20, 8, 110, 44, "granularity", 5)

    def noting(name, answer):
        return lambda *args, **named: calls.setdefault(name, []).append((args, named)) or answer

    for name, answer in (("trace", "groups"), ("Scoring", "scoring"), ("select", {3.0: chosen})):
        monkeypatch.setattr(in_memory, name, noting(name, answer))
    monkeypatch.setattr(in_memory.surgery, "apply", noting("apply", None))
    monkeypatch.setattr(in_memory.refit, "reconstruct", noting("reconstruct", None))
    monkeypatch.setattr(in_memory, "return_scores", noting("return_scores", None))
    images, labels = torch.ones(4, 8), torch.zeros(4, dtype=torch.int32)
    found = raybench.prune(
        NET, EXAMPLE, 3.0, "taylor", strategy="local", calibration=(images, labels), batch_size=3, keep=["a"],
        only=["b"], parts=["mlp"], round_to=2, seed=9,
    )  # fmt: skip
    (((scored, example), named),) = calls["trace"]
    assert (example is EXAMPLE, named) == (True, {"prune": ("mlp",), "protect": ("a",), "only": ("b",)})
    assert scored is not NET
    assert torch.equal(scored[0].weight, NET[0].weight)
    (((criterion, network, data, seed), _),) = calls["Scoring"]
    assert (type(criterion), network, seed) == (registry.importance.load("taylor"), scored, 9)
    assert (data.images is images, data.labels.dtype, data.batch_size, data.loss) == (
        True, torch.int64, 3, outputs.class_loss,
    )  # fmt: skip
    assert torch.equal(data.generator.get_state(), torch.Generator().manual_seed(9).get_state())
    (((scoring, one, groups, speedups), named),) = calls["select"]
    assert (scoring, one.shape, groups, speedups) == ("scoring", (1, 8), "groups", [3.0])
    assert named == {"strategy": "local", "schedule": "iterative", "round_to": 2}
    (((pruned, groups, kept), _),) = calls["apply"]
    assert (groups, kept, pruned is found.model, pruned is NET) == ("groups", {"0": (0, 1)}, True, False)
    assert calls["reconstruct"] == [((criterion, NET, pruned, "groups", kept, data), {"stage": "surgery"})]
    assert calls["return_scores"] == [((scored,), {})]
    assert (found.speedup, found.macs_base, found.macs, found.params_base, found.params, found.kept, found.reason) == (
        2.5, 100, 40, 20, 8, {"0": (0, 1)}, "granularity",
    )  # fmt: skip
    raybench.prune(NET, EXAMPLE, 3.0)
    assert calls["select"][1][1] == {"strategy": "protected-global", "schedule": "progressive", "round_to": 1}
    assert calls["trace"][1][1] == {"prune": (), "protect": (), "only": ()}
    assert calls["Scoring"][1][0][2:] == (None, 0)
    assert len(calls["return_scores"]) == 1
    raybench.prune(NET, EXAMPLE, 3.0, schedule="one-shot", calibration=(images, labels), loss=lambda o, t: o.sum())
    assert calls["select"][2][1]["schedule"] == "one-shot"
    own = calls["Scoring"][2][0][2]
    assert (own.labels is labels, own.batch_size) == (True, 64)
    assert torch.equal(own.generator.get_state(), torch.Generator().manual_seed(0).get_state())


def test_a_saved_network_is_put_where_it_is_asked_for(tmp_path) -> None:
    from tests.unit.test_pipeline_parts import saved

    folder, _ = saved(tmp_path / "net")
    assert {p.device.type for p in raybench.load_pruned(folder, "meta").parameters()} == {"meta"}


def test_what_of_a_network_can_be_pruned() -> None:
    torch.manual_seed(0)
    found = raybench.inspect(NET.train(), EXAMPLE)
    (group,) = found.groups
    assert (found.model, found.macs, found.params, dict(found.whole)) == (
        "Sequential", 192, 8 * 16 + 16 + 64 + 4, {"2": "it makes the network's output"},
    )  # fmt: skip
    assert (group.name, group.part, group.units, group.least, group.layers) == ("0", "channels", 16, 1, ("0",))
    assert group.macs_share == pytest.approx(15 / 16)
    assert group.params_share == pytest.approx(15 * (8 + 1 + 4) / 212)
    assert found.most == pytest.approx(
        {"local": 16, "global": 16, "protected-global": 8, "isomorphic": 16, "optimal": 16}
    )
    assert 0 < found.seconds < 600
    members = [("n", "out", "norm"), ("i", "in", "conv")]
    members = [types.SimpleNamespace(layer=layer, side=side, kind=kind) for layer, side, kind in members]
    assert inspection._outs(types.SimpleNamespace(members=members)) == ("n",)
    whole = types.SimpleNamespace(protected=("9", "2", "0"), whole={"2": "why"})
    assert list(inspection._whole(NET, whole).items()) == [
        ("0", inspection.UNNAMED), ("2", "why"), ("9", inspection.UNNAMED),
    ]  # fmt: skip
