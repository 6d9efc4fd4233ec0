"""The line above a leaderboard that says what its ± is of."""

import pytest

from raybench.reports.board_text import as_text
from raybench.reports.leaderboard import Leaderboard
from raybench.results.store import Store
from raybench.storage.open import open_storage
from tests.unit.result_rows import row, trial

PLAIN = "± is the standard deviation over n seeds"


@pytest.fixture
def store(tmp_path):
    return Store(open_storage(tmp_path / "results"))


def put(store, bases, *method, **fields):
    """Publish one cell for each of `bases`, the hashes of the dense weights; seeds count from 0."""
    for seed, base in enumerate(bases):
        store.publish(row(trial(*method, seed=seed, **fields), base_sha256=base, metric_final=90.0 + seed))


def line(store):
    (found,) = [line for line in Leaderboard.read(store).conditions if line.startswith("cells:")]
    return found[found.index("±") :]


def test_shared_bases_leave_finetuning_alone(store):
    put(store, ["a", "a", "a"], "lamp")
    put(store, ["a", "a", "a"], "fpgm", speedup=4.0)
    put(store, ["b", "b"], "lamp", model="cifar-resnet32")
    assert line(store) == f"{PLAIN}, of fine-tuning alone: the seeds share their dense base"


def test_one_base_for_each_recipe_is_still_shared(store):
    from tests.unit.result_rows import RECIPE

    put(store, ["a", "a"], "lamp")
    put(store, ["b", "b"], "lamp", recipe=RECIPE.model_copy(update={"name": "other", "calibration_images": 17}))
    assert "of fine-tuning alone" in line(store)


def test_a_base_for_each_seed_is_the_whole(store):
    put(store, ["a", "b"], "lamp")
    assert line(store) == f"{PLAIN}, of the whole: every seed has its own base"
    put(store, ["a", "a"], "fpgm", model="cifar-resnet32")
    assert line(store) == (
        f"{PLAIN}, of fine-tuning alone where the seeds share their dense base (cifar-resnet32 on digits), "
        "of the whole where every seed has its own base (cifar-resnet20 on digits)"
    )


def test_some_seeds_with_a_base_of_their_own(store):
    put(store, ["a", "a", "b"], "lamp")
    assert line(store) == f"{PLAIN}, of the whole: the seeds have several bases"


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        (("taylor",), "calibration images and fine-tuning"),
        (("random",), "random scores and fine-tuning"),
        (("lamp", "group-norm"), "sparsifying and fine-tuning"),
        (("taylor", "group-norm"), "sparsifying, calibration images and fine-tuning"),
        (("somebody-elses",), "fine-tuning alone"),
    ],
)
def test_what_else_draws_from_the_seed_is_named(store, method, stages):
    put(store, ["a", "a"], *method)
    assert line(store) == f"{PLAIN}, of {stages}: the seeds share their dense base"


@pytest.mark.parametrize("bases", [["a"], [None, None]])
def test_one_seed_or_unknown_bases_say_no_more(store, bases):
    put(store, bases, "lamp")
    assert line(store) == PLAIN


def test_the_line_fits_the_width(store):
    put(store, ["a", "b"], "lamp")
    put(store, ["a", "a"], "fpgm", model="cifar-resnet32")
    assert max(map(len, as_text(Leaderboard.read(store), 80).splitlines())) <= 80
