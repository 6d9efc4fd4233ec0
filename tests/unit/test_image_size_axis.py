"""The axis of image sizes: cells that choose, train and measure on images of another size than their base's."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from raybench import load_pruned
from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.errors import NotSupported
from raybench.groups.cost import count_macs
from raybench.plan.plan import why_not
from raybench.reports.reproduce import sweep_of
from raybench.results.schema import config_id
from raybench.sweep.reader import load_sweep
from raybench.sweep.resolve import resolve
from raybench.sweep.size import cells_of
from raybench.tasks.open import open_task
from tests.unit.result_rows import trial
from tests.unit.sweeps import only_row, rows_of, sweep

TEXT = """
name: s
datasets: digits
models: [cifar-resnet20, test-vit]
methods: [magnitude-l2]
speedups: [1.2, 3]
targets: {params: 4}
image_sizes: [8, 6]
recipe: {name: t, base: {epochs: 0, lr: 0.01}, finetune: {epochs: 0, lr: 0.01}, calibration_images: 16}
exclude: [{models: test-vit, speedups: [1.2]}]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(rows of the sweep TEXT, its storage)."""
    return rows_of(tmp_path_factory.mktemp("image-size"), TEXT)


def one(rows, size=6, model="cifar-resnet20", **asked):
    return only_row(rows, image_size=size, model=model, **asked)


def test_the_target_counts_from_the_base_at_its_own_size(done) -> None:
    rows, storage = done
    own = one(rows, None, speedup_target=3.0)
    for found, ratio in (
        (one(rows, speedup_target=3.0), lambda r: r["macs_base"] / r["macs"] / 3),
        (one(rows, params_target=4.0), lambda r: r["params_base"] / r["params"] / 4),
    ):
        assert ratio(found) == pytest.approx(1, rel=0.005)
        for name in ("macs_base", "params_base", "macs_tp_base", "base_key", "metric_base", "activations_base"):
            assert found[name] == own[name]
        assert found["reason"] is None
        net = load_pruned(storage / found["artifact"])
        assert count_macs(net, torch.zeros(1, 1, 6, 6)) == found["macs"]
    assert one(rows, speedup_target=3.0)["params"] > own["params"]


def test_where_the_size_alone_saves_more_no_channel_goes_and_the_row_says_so(done) -> None:
    found = one(done[0], speedup_target=1.2)
    assert found["params"] == found["params_base"]
    assert found["reason"].startswith("image size: images of 6 pixels alone give ")


def test_a_network_of_one_size_is_skipped_with_the_reason(done) -> None:
    found = one(done[0], model="test-vit", speedup_target=3.0)
    assert found["status"] == "skipped"
    assert found["reason"].startswith("image size 6: test-vit takes no such images: ")
    assert one(done[0], None, "test-vit", speedup_target=3.0)["status"] == "ok"


def test_ids_without_a_size_stay_and_the_datasets_own_is_none() -> None:
    plain, sized = trial(), trial(image_size=6)
    assert "image_size" not in plain.model_dump()
    assert plain.at_own_size is plain
    assert sized.at_own_size == plain
    assert plain.trial_id == trial(image_size=None).trial_id != sized.trial_id
    assert config_id(plain) != config_id(sized)
    assert (plain.base_key, plain.sparsify_key) == (sized.base_key, sized.sparsify_key)
    assert plain.select_key != sized.select_key
    ours = sweep(image_sizes=[8, 6], depths=[1.0, 0.5])
    assert cells_of(ours) == len(resolve(ours)) == 4 * len(resolve(sweep()))
    assert {t.image_size for t in resolve(ours)} == {None, 6}
    assert {t.image_size for t in resolve(sweep(image_sizes=6))} == {6}
    assert resolve(sweep(image_sizes=8)) == resolve(sweep())


def test_a_cell_is_reproduced_at_its_size(tmp_path) -> None:
    found = resolve(sweep(image_sizes=6))[0]
    (tmp_path / "again.yaml").write_text(sweep_of(found.model_dump_json()))
    assert resolve(load_sweep(tmp_path / "again.yaml"))[0].trial_id == found.trial_id


@pytest.mark.parametrize("sizes", [0, True, 6.5, "6", [6, 6]])
def test_sizes_are_sides_in_pixels_each_once(sizes) -> None:
    with pytest.raises(ValidationError, match="image_sizes"):
        sweep(image_sizes=sizes)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"protocol": "pruningbench"}, "pruningbench keeps the dataset's own"),
        ({"dataset": "digits-detection", "task": "detection", "model": "yolo11n"}, "the size of its scenes"),
        ({"dataset": "imagefolder", "dataset_params": {"image_size": "128x96"}}, "are 128x96, not square"),
    ],
)
def test_cells_that_keep_their_size_say_why(fields, why) -> None:
    assert why in why_not(trial(image_size=6, **fields))


def test_images_in_memory_are_scaled_once_for_all_splits() -> None:
    grey = torch.arange(2 * 64, dtype=torch.uint8).reshape(2, 1, 8, 8)
    pixels = Pixels(grey)
    first, second = (TensorImages(pixels, torch.tensor([0, 1]), torch.tensor([i])) for i in (0, 1))
    small = first.resized(4)
    assert small.shape == (1, 4, 4)
    assert first.shape == (1, 8, 8)
    assert second.resized(4)._pixels is small._pixels
    (batch,) = small.batches([torch.tensor([0])], torch.device("cpu"), None)
    expected = torch.nn.functional.interpolate(grey[:1].float(), (4, 4), mode="bilinear", antialias=True).round()
    torch.testing.assert_close(batch, expected / 255)
    floats = Pixels(grey / 255).resized(4)
    assert floats.at(torch.device("cpu")).dtype == torch.float32


def test_a_task_at_another_size_builds_networks_for_the_own_one() -> None:
    task = open_task(trial(image_size=6), {}, torch.device("cpu"))
    assert (task.data.image_shape, task.data.own.image_shape) == ((1, 6, 6), (1, 8, 8))
    assert task.calibration(4, 4, 0).images.shape == (4, 1, 6, 6)


def test_images_in_files_of_one_size_are_refused() -> None:
    facts = open_task(trial(), {}, torch.device("cpu")).data
    files = object()
    with pytest.raises(NotSupported, match="digits reads its images from files at one size"):
        Data(facts, files, files, files, files, "").resized(6)
