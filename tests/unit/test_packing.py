"""States of training as checkpoints keep them: few long vectors, and every tensor as it was."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from raybench.storage.packing import MARK, SMALL, packed, unpacked


def kept(state):
    """`state` as it comes back from a file."""
    file = io.BytesIO()
    torch.save(packed(state), file)
    return unpacked(torch.load(io.BytesIO(file.getvalue()), weights_only=True))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_every_tensor_comes_back_as_it_was() -> None:
    state = {
        "model": {
            "w": torch.arange(6.0).reshape(2, 3), "scalar": torch.tensor(3), "none": torch.empty(0, 4), "half":
            torch.ones(2, dtype=torch.bfloat16), "flags": torch.tensor([True, False]), "steps": torch.tensor([2**40]),
            "large": torch.full((SMALL + 1,), 2.0),
            "strided": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
            "part": torch.arange(10.0)[::3], "parameter": nn.Parameter(torch.ones(2)), "z": torch.tensor([1 + 2j]),
            "sparse": torch.eye(3).to_sparse(),
        },
        "list": [torch.zeros(1), 2, "three", None, (torch.ones(1), 4.5)],
        "plain": {"epoch": 3, 7: "a number for a key", "empty": {}},
    }  # fmt: skip
    found = kept(state)
    assert found["plain"] == state["plain"]
    assert found["list"][1:4] == [2, "three", None]
    assert (type(found["list"][4]), found["list"][4][1]) == (tuple, 4.5)
    assert torch.equal(found["list"][0], torch.zeros(1))
    assert torch.equal(found["list"][4][0], torch.ones(1))
    assert found["model"].keys() == state["model"].keys()
    for name, expected in state["model"].items():
        value = found["model"][name]
        assert (value.dtype, value.shape, value.layout) == (expected.dtype, expected.shape, expected.layout), name
        assert torch.equal(value.to_dense(), expected.to_dense()), name


def test_small_tensors_are_one_vector_for_each_type() -> None:
    content = packed(
        {"a": torch.ones(2), "b": {"c": torch.zeros(3, 1), "n": torch.tensor(4)}, "large": torch.ones(SMALL + 1)}
    )
    assert content["tree"]["a"] == f"{MARK} float32 0 2"
    assert content["tree"]["b"] == {"c": f"{MARK} float32 2 3 1", "n": f"{MARK} int64 0"}
    assert content["tree"]["large"].shape == (SMALL + 1,)
    assert {kind: vector.tolist() for kind, vector in content["vectors"].items()} == {
        "float32": [1, 1, 0, 0, 0], "int64": [4],
    }  # fmt: skip


def test_tensors_that_come_back_share_no_memory() -> None:
    found = kept({"a": torch.ones(2), "b": torch.ones(2)})
    found["a"].zero_()
    assert found["b"].tolist() == [1, 1]
    assert found["b"].untyped_storage().nbytes() == 8


@pytest.mark.parametrize("state", [{}, {"epoch": 1, "model": {}}, {"tree": 1}])
def test_a_state_of_an_earlier_version_is_read(state) -> None:
    assert unpacked(state) == state


def test_tensors_in_the_form_of_an_earlier_version_are_read() -> None:
    tree = {"a": (MARK, "float32", 1, (2, 1)), "n": (MARK, "int64", 0, ()), "pair": (1, "b")}
    found = unpacked({"tree": tree, "vectors": {"float32": torch.arange(3.0), "int64": torch.tensor([4])}})
    assert found["a"].tolist() == [[1.0], [2.0]]
    assert (found["n"].tolist(), found["pair"]) == (4, (1, "b"))
