"""What only a GPU can show, as one table: no ray, no network. `make gpu` runs it; without a card it says so and ends.

    python -m tests.gpu.check [--device cuda] [--quick] [--no-bench]

Needs torch 2.11 or newer, torchvision, timm, pydantic, and what planning and cutting import (pyarrow, PyYAML,
scikit-learn, safetensors, torch-pruning); a line whose module is missing says so. `--device cpu` runs the lines that a
CPU has, to try the script itself. After the table come the rows of tests/benchmarks/bench_training.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from raybench.datasets.data import Data, Pixels, TensorImages
from raybench.datasets.facts import DataFacts
from raybench.models.build import build_model
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.speed import Speed
from raybench.tasks.classification import Classification
from raybench.tasks.training.seeding import generator
from tests.kept import Kept, Killed

QUICKSTART = Path(__file__).parents[2] / "sweeps" / "quickstart.yaml"
FACTS = DataFacts("patterns", "classification", 10, 3, 32, (0.5,) * 3, (0.25,) * 3, "")
MEMORY_BOUND = 64 << 20  # bytes: cuBLAS and cuDNN keep workspaces
NOISE = 3.0  # points between the means of three seeds
BATCH, SIDE = 128, 8192  # images of a step; rows of the product that measures the peak

Line = tuple[str, bool, str]  # (what, whether it is as expected, figures)


def patterns(images: int) -> Data:
    """Images of CIFAR's format: one pattern for each of ten classes, under noise that training must see through."""
    draw = generator("patterns")
    base = torch.rand(FACTS.classes, 3, 8, 8, generator=draw).repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.randint(0, FACTS.classes, (images,), generator=draw)
    noisy = base[labels] + 0.8 * torch.randn(images, 3, 32, 32, generator=draw)
    pixels, half, tenth = Pixels((noisy.clamp(0, 1) * 255).byte()), images // 2, images // 10
    spans = ((0, half), (half, half + tenth), (half + tenth, images), (0, half + tenth))
    return Data(FACTS, *(TensorImages(pixels, labels, torch.arange(*span)) for span in spans), "")


def train(data: Data, device: torch.device, epochs: int, seed: int = 0, checkpoint=None, **speed):
    """(network, what training told, accuracy on the test split) of a ResNet-20."""
    task = Classification(data, device, Speed(**speed).filled(device.type, "raybench"))
    torch.manual_seed(seed)
    net = build_model("cifar-resnet20", FACTS).to(device)
    recipe = TrainRecipe(epochs=epochs, batch_size=BATCH, lr=0.1, nesterov=True, augment=("crop", "flip"), ema=0.9)
    trained = task.train(net, recipe, seed=seed, checkpoint=checkpoint or Kept(), select="last")
    return net, trained, task.evaluate(net, "test")["top1"]


def largest_gap(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of two networks' weights, as a share of the largest weight."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max() / a.detach().abs().max()) for a, b in pairs)


def precisions(data: Data, device: torch.device, epochs: int) -> Iterator[Line]:
    """Each precision over three seeds, beside fp32."""
    names = ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")
    means = {}
    for name in names:
        found = [train(data, device, epochs, seed, precision=name)[2] for seed in range(3)]
        means[name] = sum(found) / 3
        fine = abs(means[name] - means["fp32"]) <= NOISE
        yield f"accuracy, {name}", fine, ", ".join(f"{value:.2f}" for value in found) + f" %, mean {means[name]:.2f}"


def formats(data: Data, device: torch.device, epochs: int) -> Iterator[Line]:
    """The probe of memory formats."""
    trained = train(data, device, epochs, memory_format="auto")[1].computing
    yield (
        "memory format",
        trained["memory_format"] in ("nchw", "channels_last"),
        f"{trained['memory_format']}: {trained['speed_note']}",
    )


def graphs(data: Data, device: torch.device, epochs: int) -> Iterator[Line]:
    """A run of captured steps beside plain ones, with deterministic kernels."""
    same = {"deterministic": True, "precision": "fp32", "memory_format": "nchw"}
    plain, _, _ = train(data, device, epochs, graphs="off", **same)
    captured, trained, _ = train(data, device, epochs, graphs="auto", **same)
    gap, state = largest_gap(plain, captured), trained.computing["graphs"]
    expected = "on" if device.type == "cuda" else "off"
    note = trained.computing["speed_note"] or "no note"
    yield "steps as CUDA graphs", state == expected and gap < 1e-3, f"{state}, largest gap {gap:.1e}; {note}"


def resume(data: Data, device: torch.device, epochs: int) -> Iterator[Line]:
    """A killed and continued run beside an unkilled one."""
    same = {"deterministic": True, "precision": "fp32", "graphs": "off", "memory_format": "channels_last"}
    whole, _, _ = train(data, device, epochs, **same)
    checkpoint = Kept(dies_after=1)
    try:
        train(data, device, epochs, checkpoint=checkpoint, **same)
    except Killed:
        checkpoint.left = 0
    again, trained, _ = train(data, device, epochs, checkpoint=checkpoint, **same)
    gap = largest_gap(whole, again)
    yield "resume after a kill", trained.resumed_from == 1 and gap < 1e-5, f"largest gap {gap:.1e}"


def memory(data: Data, device: torch.device, epochs: int) -> Iterator[Line]:
    """Memory of the device after a stage, beside that before it."""
    if device.type != "cuda":
        return
    before = torch.cuda.memory_allocated(device)
    train(data, device, epochs)
    torch.cuda.synchronize(device)
    left = torch.cuda.memory_allocated(device) - before
    peak = torch.cuda.max_memory_allocated(device) >> 20
    yield "memory back to its baseline", left < MEMORY_BOUND, f"{left >> 20} MiB left, peak {peak} MiB"


def peak(device: torch.device) -> Iterator[Line]:
    """The rate of one large product, which shares of the peak refer to."""
    if device.type != "cuda":
        return
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(SIDE, SIDE, device=device, dtype=dtype)
        for _ in range(3):
            a @ a
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(10):
            a @ a
        end.record()
        torch.cuda.synchronize(device)
        rate = 10 * 2 * SIDE**3 / (start.elapsed_time(end) * 1e-3) / 1e12
        yield f"product of {SIDE} x {SIDE}, {str(dtype).removeprefix('torch.')}", rate > 0, f"{rate:.0f} TFLOP/s"


def quickstart(device: torch.device, quick: bool) -> Iterator[Line]:
    """The cells of quickstart.yaml by the inline executor with the default speed, and one cell with all options."""
    from raybench.execution.worker import Assignment, execute
    from raybench.plan.plan import plan
    from raybench.results.store import Store
    from raybench.storage.open import open_storage
    from raybench.sweep.reader import load_sweep

    small = "models: cifar-resnet20\nmethods: magnitude-l1\nspeedups: 2\nseeds: 0\ninclude: []\n"
    fast = "{precision: bf16, memory_format: auto, deterministic: false, graphs: auto}"
    ways = (("default", small if quick else ""), ("fast", f"{small}recipe:\n  extends: quick\n  speed: {fast}\n"))
    for name, block in ways:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "gpu.yaml"
            file.write_text(f"extends: {QUICKSTART}\nname: gpu\ndevice: {device.type}\n{block}")
            storage = open_storage(str(Path(folder) / "store"))
            assignment = Assignment(storage.url, gpus=1.0 if device.type == "cuda" else 0.0)
            outcomes = [execute(unit, assignment) for unit in plan(load_sweep(file), storage).units]
            rows = Store(storage).table().to_pylist()
        failed = [one.error_message for one in outcomes if one.status not in ("ok", "skipped")]
        fine = [row["metric_final"] for row in rows if row["status"] == "ok"]
        summary = f"{len(fine)} of {len(rows)} cells, top1 {min(fine, default=0):.1f} to {max(fine, default=0):.1f}"
        yield f"quickstart, {name}", bool(fine) and not failed, f"{summary}; {failed[0] if failed else 'none failed'}"


def lines(device: torch.device, quick: bool) -> Iterator[tuple[Line, float]]:
    """Every line with the seconds that it took; what raises is a line, too."""
    data, epochs = patterns(1_000 if quick else 20_000), 2 if quick else 6
    parts: list[tuple[str, Callable[[], Iterator[Line]]]] = [("peak", lambda: peak(device))]
    parts += [(part.__name__, lambda part=part: part(data, device, epochs))
              for part in (precisions, formats, graphs, resume, memory)]  # fmt: skip
    parts.append(("quickstart", lambda: quickstart(device, quick)))
    for name, part in parts:
        started = time.perf_counter()
        try:
            for line in part():
                yield line, time.perf_counter() - started
                started = time.perf_counter()
        except ModuleNotFoundError as error:
            yield (name, True, f"not run: {error}"), 0.0
        except Exception as error:  # the other lines are still worth having
            yield (name, False, f"{type(error).__name__}: {error}".partition("\n")[0]), time.perf_counter() - started


def main() -> int:
    """Print the table; 1 where a line is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="fewer images and epochs, one cell")
    parser.add_argument("--no-bench", action="store_true", help="the table alone")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("not run: there is no CUDA device on this machine")
        return 0
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    print(f"{name}; torch {torch.__version__}", flush=True)
    wrong = 0
    for (what, fine, figures), seconds in lines(device, args.quick):
        wrong += not fine
        print(f"{what:<34} {'ok' if fine else 'WRONG':<6} {seconds:6.1f} s  {figures}", flush=True)
    if not args.no_bench:
        from tests.benchmarks import bench_copies, bench_training

        nets = ["resnet20", "resnet18"] if args.quick else ["resnet20", "resnet18", "vgg19", "resnet50"]
        sys.argv = ["bench_training", *nets, "--device", args.device, "--images", "512" if args.quick else "2048",
                    "--turns", "2"]  # fmt: skip
        bench_training.main()
        for row in bench_copies.rows(nets[0], device, BATCH):
            print(row, flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
