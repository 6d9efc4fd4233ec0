"""Weights of others that are damaged or of another type are refused by file and tensor; the network stays as it is."""

import re

import pytest
import torch
from safetensors.torch import save_file

from raybench.errors import UserError
from raybench.models.weights import load_weights


def net():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.BatchNorm2d(64))


def refused(path):
    """The message about `path`, in one line; the network keeps its weights."""
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_2000_overwritten_bytes_in_a_pth_are_noticed(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(net().state_dict(), path)
    load_weights(net(), path)
    content = bytearray(path.read_bytes())
    start = content.index(net().state_dict()["1.weight"].numpy().tobytes()) - 2500  # within the convolution's weights
    content[start : start + 2000] = b"\x3c" * 2000  # numbers like any other
    path.write_bytes(bytes(content))
    torch.load(path, weights_only=True)  # torch doesn't notice
    assert re.search(r"damaged: x/data/\d+ in it has another content than its checksum", refused(path))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [(torch.int64, "int64"), (torch.uint8, "uint8"), (torch.bool, "bool"), (torch.complex64, "complex64")],
)
def test_tensors_of_another_type_are_refused_by_name(suffix, kind, message, tmp_path):
    state = net().state_dict()
    state["0.weight"] = state["0.weight"].to(kind)
    path = tmp_path / f"x.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    assert f"0.weight: {message} instead of float32" in refused(path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_of_another_precision_is_loaded(kind, tmp_path):
    torch.save({name: value.to(kind) for name, value in net().state_dict().items()}, tmp_path / "x.pth")
    load_weights(net(), tmp_path / "x.pth")
