"""Training as on a GPU, on a card that is made of the processor's memory (tests/card.py): the numbers are the CPU's.

What the real thing would refuse raises, and no step waits for the card.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from raybench import registry
from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.datasets.transfer import on_device
from raybench.execution.causes import of_device, ran_out_of_memory
from raybench.execution.isolation import MemoryBaseline, free
from raybench.execution.worker import Assignment, device_of
from raybench.groups.trace import trace
from raybench.models.build import build_model
from raybench.progress.outcome import Outcome
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.speed import Speed
from raybench.tasks import classification
from raybench.tasks.classification import Classification
from raybench.tasks.training import steps
from raybench.tasks.training.computing import Computing, exact, kernels
from raybench.tasks.training.seeding import generator
from tests.card import CAPTURED, Card, a_card, forget
from tests.kept import Kept, Killed

FACTS = DataFacts("patterns", "classification", 10, 3, 16, (0.5,) * 3, (0.25,) * 3, "")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BATCH = 12


def data() -> Data:
    draw = generator("card")
    pixels = torch.randint(0, 256, (90, 3, 16, 16), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 10, (90,), generator=draw)
    spans = ((0, 60), (60, 80), (80, 90), (0, 80))
    return Data(FACTS, *(TensorImages(Pixels(pixels), labels, torch.arange(*span)) for span in spans), "")


def trained(
    device: torch.device, name: str | type = "test-convnet", penalty: str = "", speed=None, select="val",
    checkpoint=None, **options,
):  # fmt: skip
    """(network, what training told) after two epochs; the teacher is another network of the same kind."""
    torch.manual_seed(0)
    net = (build_model(name, FACTS) if isinstance(name, str) else name()).to(device)
    other = copy.deepcopy(net).eval() if options.get("distill") else None
    recipe = TrainRecipe(**{"epochs": 2, "batch_size": BATCH, "lr": 0.05, "weight_decay": 0.01} | options)
    task = Classification(data(), device, Speed(**(speed or {})).filled("cuda", "raybench"))
    hook = None
    if penalty:
        hook = registry.regularizer.load(penalty)()
        hook.bind(net, trace(net, torch.zeros(1, 3, 16, 16, device=device), classes=10))
    forget()
    return net, task.train(
        net, recipe, seed=0, checkpoint=checkpoint or Kept(), regularizer=hook, teacher=other, select=select
    )


@pytest.fixture
def card(monkeypatch):
    with a_card(monkeypatch) as made:
        yield made


def numbers(net) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in net.state_dict().items()}


def same(one, other, within: float = 0.0) -> None:
    for name, value in numbers(one).items():
        np.testing.assert_allclose(value, numbers(other)[name], rtol=within, atol=within, err_msg=name)


class Depthwise(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 2, 1, groups=8),
            nn.BatchNorm2d(8), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        )  # fmt: skip


class Asking(Depthwise):
    """It looks at a value in its forward, as no graph can."""

    def forward(self, images):
        found = super().forward(images)
        return found if found.sum().item() > -1e9 else -found


def in_steps(card: Card) -> list:
    """Waits that a step of training or the making of its batch asked for."""
    rooms = ("steps.py", "batches.py", "mix.py", "randaugment.py", "ema.py", "loss.py", "resizing.py", "penalty.py")
    return [one for one in card.waits if one.where.split(":")[0] in rooms]


OPTIONS = {
    "moves": {"augment": ("shift", "crop", "flip")},
    "crops": {"augment": ("resized-crop", "flip"), "ema": 0.9, "nesterov": True},
    "randaugment": {"randaugment": 9, "optimizer": "adamw", "lr": 0.001},
    "erasing": {"random_erasing": 0.5, "distill": 0.5},
    "mixtures": {"mixup": 0.5, "cutmix": 0.5, "label_smoothing": 0.1, "clip_grad": 1.0, "start_scale": 0.5},
}
AS_GRAPHS = {
    "sgd": {"momentum": 0.9, "nesterov": True, "warmup_epochs": 1},
    "adamw": {"optimizer": "adamw", "lr": 0.001, "clip_grad": 1.0, "ema": 0.9},
    "mixtures": {"mixup": 0.5, "cutmix": 0.5, "label_smoothing": 0.1, "distill": 0.5},
    "resizing": {"start_scale": 0.5, "epochs": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_training_on_a_card_is_that_of_a_cpu_and_no_step_waits(name, monkeypatch) -> None:
    plain, told = trained(CPU, **OPTIONS[name])
    with a_card(monkeypatch) as card:
        net, found = trained(CUDA, **OPTIONS[name])
        assert {value.device.type for value in net.state_dict().values()} == {"cuda"}
        same(net, plain)
        assert in_steps(card) == []
        assert len([one for one in card.waits if one.where.startswith("loop.py")]) == 2, "the loss, once an epoch"
    assert found.curve == told.curve


@pytest.mark.parametrize("net", ["cifar-resnet20", "test-vit", Depthwise])
@pytest.mark.parametrize("form", ["nchw", "channels_last"])
def test_networks_train_on_a_card_in_both_formats(net, form, card) -> None:
    speed = {"precision": "bf16", "memory_format": form, "deterministic": False}
    _, told = trained(CUDA, net, epochs=1, speed=speed, optimizer="adamw", lr=0.001)
    assert in_steps(card) == []
    assert (told.computing["precision"], told.computing["memory_format"]) == ("bf16", form)


@pytest.mark.parametrize("name", AS_GRAPHS)
def test_steps_as_graphs_are_the_plain_steps(name, card) -> None:
    """Rates and shares of mixtures that a graph reads are float32, so that the last bit differs."""
    plain, _ = trained(CUDA, **AS_GRAPHS[name])
    net, found = trained(CUDA, speed={"graphs": "auto"}, **AS_GRAPHS[name])
    assert (found.computing["graphs"], found.computing["speed_note"]) == ("on", None)
    assert in_steps(card) == []
    same(net, plain, within=1e-6)


def test_a_network_that_asks_for_values_is_found_out_before_any_capture(card, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", None)  # nothing is captured
    plain, _ = trained(CUDA, Asking)
    net, found = trained(CUDA, Asking, speed={"graphs": "auto"})
    assert found.computing["graphs"] == "off"
    assert found.computing["speed_note"].startswith("no graphs: a step waits for the device (")
    same(net, plain)
    assert torch.cuda.get_sync_debug_mode() == 0


def test_an_optimizer_that_reads_its_rate_is_found_out_before_any_capture(card, monkeypatch) -> None:
    """In a graph the rate is a tensor on the card, which torch's foreach form of SGD reads for each step."""

    def foreach(model, recipe, device):
        return torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum, foreach=True)

    monkeypatch.setattr(classification, "make_optimizer", foreach)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", None)  # nothing is captured
    plain, _ = trained(CUDA)
    net, found = trained(CUDA, speed={"graphs": "auto"})
    assert found.computing["speed_note"].startswith("no graphs: a step waits for the device (")
    same(net, plain, within=1e-6)


def test_after_a_failed_capture_training_goes_on_and_the_first_error_is_told(card, monkeypatch) -> None:
    monkeypatch.setattr(steps.Stepper, "_rehearsal", steps.Stepper._beside)
    plain, _ = trained(CUDA, Asking)
    net, found = trained(CUDA, Asking, speed={"graphs": "auto"})
    assert found.computing["speed_note"] == f"no graphs: CUDA error: {CAPTURED}"
    assert torch.cuda.default_generators[0].restored == 1
    same(net, plain)
    try:
        assert MemoryBaseline().excess() == f"the memory of a CUDA graph that failed (CUDA error: {CAPTURED})"
    finally:
        steps.failed_captures.clear()
    assert MemoryBaseline().excess() == ""


@pytest.mark.parametrize("gpus", [1, 0.5, 4])
def test_a_unit_gets_the_card_and_its_share(gpus, card, monkeypatch) -> None:
    """`cuda` has no index, which torch demands for a share of the memory, and the share must be a float."""
    shares = []
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda share, index: shares.append((share, index)))
    assert device_of(Assignment("somewhere", gpus=gpus), "cuda") == CUDA
    assert shares == [(min(gpus, 1.0), 0)]


def test_units_free_the_memory_of_a_card(card, monkeypatch) -> None:
    """cuBLAS' workspaces count as allocated, so they go first."""
    done = []
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: done.append("cuBLAS"), raising=False)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("cache"))
    free()
    assert done == ["cuBLAS", "cache"]


@pytest.mark.parametrize(
    "message", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"],
)  # fmt: skip
def test_libraries_of_cuda_that_get_no_memory_are_short_of_the_device_s(message) -> None:
    outcome = Outcome("k", "cell", "failed", "", "RuntimeError", message)
    assert (ran_out_of_memory(outcome), of_device(outcome)) == (True, True)


@pytest.mark.parametrize("name", registry.regularizer.entries())
def test_every_penalty_is_part_of_a_graph_and_may_change_with_the_epoch(name, card) -> None:
    plain, _ = trained(CUDA, penalty=name, select="last")
    assert in_steps(card) == []
    net, found = trained(CUDA, penalty=name, select="last", speed={"graphs": "auto"})
    assert found.computing["graphs"] == "on"
    same(net, plain, within=1e-6)


def test_a_stage_killed_on_a_card_goes_on_there(card) -> None:
    options = {"ema": 0.9, "optimizer": "adamw", "lr": 0.001}
    whole, _ = trained(CUDA, **options)
    checkpoint = Kept(dies_after=1)
    with pytest.raises(Killed):
        trained(CUDA, checkpoint=checkpoint, **options)
    checkpoint.left = None
    again, found = trained(CUDA, checkpoint=checkpoint, **options)
    assert found.resumed_from == 1
    same(again, whole)


def test_an_evaluation_waits_once(card) -> None:
    net = build_model("test-convnet", FACTS).to(CUDA)
    task = Classification(data(), CUDA)
    forget()
    task.evaluate(net, "train")
    assert [(one.kind, one.where.split(":")[0]) for one in card.events] == [
        ("wait", "data.py"), ("wait", "data.py"), ("send", "transfer.py"), ("wait", "classification.py"),
    ]  # fmt: skip


def test_evaluation_and_scoring_are_exact_whatever_trains(card) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with kernels(CUDA, Computing(precision="bf16", deterministic=False)):
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == (True, True, True, False)
        with exact(CUDA):
            assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == (
                False, False, False, True,
            )  # fmt: skip
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == (True, True, True, False)
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == (False, True, False, False)


def test_decoded_batches_come_to_a_card_as_they_are_on_a_cpu(card) -> None:
    batches = [np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3) + number for number in range(3)]
    there, here = list(on_device(batches, CUDA)), list(on_device(batches, CPU))
    assert all(one.is_cuda and one.is_contiguous() for one in there)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(there, here, strict=True))
    assert {one.where.split(":")[0] for one in card.waits} == {"test_on_a_fake_card.py"}


def test_the_memory_format_is_probed_on_a_card(card) -> None:
    _, found = trained(CUDA, speed={"memory_format": "auto"}, epochs=1)
    assert found.computing["speed_note"].startswith("a step of 12 images: nchw ")
