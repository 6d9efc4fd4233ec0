"""Two processes that train one network together give the numbers of one: gradients, norms, curves, weights."""

import pytest
import torch
from torch import nn

from raybench.errors import UserError
from raybench.tasks.classification import check_shares
from raybench.tasks.training.computing import Computing, plain_steps
from raybench.tasks.training.norms import shared_norms
from raybench.tasks.training.team import ALONE, Peers
from tests import forked

from . import team_process

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the first of two processes found, and the second one's gradients."""
    folder = tmp_path_factory.mktemp("team")
    forked.run_pair(team_process.__name__, folder)
    return torch.load(folder / "found"), torch.load(folder / "gradients-1")


def test_gradients_and_statistics_are_those_of_the_whole_batch(two):
    whole = team_process.gradients(ALONE)
    for found in (two[0]["gradients"], two[1]):
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", team_process.RECIPES)
def test_training_and_evaluation_are_those_of_one_process(two, name):
    found, alone = two[0][name], team_process.trained(team_process.task(), name)
    assert [entry["epoch"] for entry in found["curve"]] == [1, 2]
    for one, other in zip(found["curve"], alone["curve"], strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for key, value in alone["weights"].items():
        torch.testing.assert_close(found["weights"][key], value, rtol=1e-4, atol=1e-5, msg=key)
    assert found["test"] == pytest.approx(alone["test"], rel=1e-4)
    assert found["calls"] == alone["calls"]


@pytest.mark.filterwarnings("ignore:resrep")
@pytest.mark.parametrize("name", [*team_process.REGULARIZERS, *team_process.SELECTIONS])
def test_regularizers_pull_the_same_weights_in_every_process(two, name):
    for key, value in team_process.sparsified(team_process.task(), name).items():
        torch.testing.assert_close(two[0][name][key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_a_stage_that_the_first_process_leaves_between_epochs_ends_in_all_of_them(two):
    assert two[0]["stopped"] == ("stopped early", 1, True)
    alone = team_process.task().evaluate(team_process.network(), "val")
    assert two[0]["after"] == pytest.approx(alone, rel=1e-6)


def test_a_network_that_cannot_be_sent_is_named_and_the_processes_stay_together(two):
    message, whole = two[0]["unsendable"]
    assert "its network, teacher or regularizer can't be sent to them" in message
    assert whole


def test_norms_are_torchs_own_again_afterwards_and_in_eval_mode():
    plain, norm, images = nn.functional.batch_norm, nn.BatchNorm2d(2), torch.randn(4, 2, 3, 3)
    norm(images)
    with shared_norms(lambda values: pytest.fail("statistics were exchanged in eval mode")):
        inside = norm.eval()(images)
    assert nn.functional.batch_norm is plain
    assert torch.equal(inside, norm(images))


@pytest.mark.parametrize(("images", "batch_size", "most"), [(31, 9, 7), (3, 128, 3), (100, 10, 10), (11, 10, 5)])
def test_more_processes_than_images_of_a_batch_are_refused(images, batch_size, most):
    team = Peers.__new__(Peers)
    team.size = most
    check_shares(team, images, batch_size)
    team.size = most + 1
    with pytest.raises(UserError, match=f"found {most + 1} processes a cell, expected at most {most}"):
        check_shares(team, images, batch_size)


def test_graphs_and_compilation_are_off_and_the_row_says_so():
    found = plain_steps(Computing(graphs="auto", compile="auto"))
    assert (found.graphs, found.compile) == ("off", "off")
    assert found.speed_note == "no graphs with several processes; no compile with several processes"
    assert plain_steps(Computing()) == Computing()
