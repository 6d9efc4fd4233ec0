"""Damaged files of weights: each is loaded or refused by a UserError of one line; nothing else gets out."""

import warnings

import pytest
import torch
from torch import nn

from raybench.errors import UserError
from raybench.models.weights import load_weights
from tests.unit.fuzzed_checkpoints import fuzzed

ROUNDS = 15  # of each kind of damage: 465 files. `python -m tests.unit.test_checkpoint_fuzz 120` tries as many as asked


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def outcome(path, data):
    """`loaded`, `refused`, or what is wrong with the way it was refused."""
    path.write_bytes(data)
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        load_weights(model, path)
    except UserError as error:
        message = str(error)
        same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        one_line = "\n" not in message and len(message) < 700 and str(path) in message
        return "refused" if one_line and same else f"refused badly: {message!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "loaded"


@pytest.mark.filterwarnings("ignore")
def test_no_raw_exception_gets_out_of_a_damaged_file(tmp_path):
    found = {name: outcome(tmp_path / "x.pth", data) for name, data in fuzzed(net().state_dict(), ROUNDS)}
    assert len(found) >= 450
    assert {name: what for name, what in found.items() if what not in ("loaded", "refused")} == {}
    assert sum(what == "refused" for what in found.values()) > 300
    assert sum(what == "loaded" for what in found.values()) > 10  # flips that change nothing that is read


if __name__ == "__main__":
    import sys
    import tempfile
    from collections import Counter
    from pathlib import Path

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        results = Counter(
            outcome(Path(folder) / "x.pth", data) for _, data in fuzzed(net().state_dict(), int(sys.argv[1]))
        )
    print(results)
