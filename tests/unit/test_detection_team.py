"""Two processes that train one detector together give the numbers of one: losses, curves, weights, mAP."""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("ultralytics") is None:  # importing it here would write its settings
    pytest.skip("the detection extra is not installed", allow_module_level=True)

from raybench.errors import UserError
from raybench.models.ultralytics_rtdetr import TransformerDetector
from raybench.tasks.training.team import Peers
from tests import forked

from . import detector_team_process as process

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the first of two processes found."""
    folder = tmp_path_factory.mktemp("team")
    forked.run_pair(process.__name__, folder, WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")  # as Ray Train sets them
    return torch.load(folder / "found")


@pytest.mark.parametrize("name", process.NETS)
def test_training_and_evaluation_are_those_of_one_process(two, name):
    found, alone = two[name], process.trained(process.task(), name)
    for one, other in zip(found["curve"], alone["curve"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for key, value in alone["weights"].items():
        torch.testing.assert_close(found["weights"][key], value, rtol=1e-3, atol=1e-4, msg=key)
    assert found["test"] == pytest.approx(alone["test"], rel=1e-3)


def test_ultralytics_waits_for_no_other_process_at_its_import(two):
    assert two["as one of"] == ("2", -1)


def test_a_network_that_draws_for_whole_batches_is_refused():
    team = Peers.__new__(Peers)
    team.size, task = 2, process.task()
    net = TransformerDetector.__new__(TransformerDetector)
    task._team, task._checked = team, lambda model: model
    with pytest.raises(UserError, match="found 2 processes a cell, expected 1 for an RT-DETR"):
        task.train(net, process.RECIPE, seed=0, checkpoint=process.Saved())
