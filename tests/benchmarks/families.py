"""Prunes the smallest net of each of timm's modules and every net of torchvision to 1.5x: which ones work.

    python -m tests.benchmarks.families -o FILE.jsonl                       all nets that FILE.jsonl doesn't hold yet
    python -m tests.benchmarks.families -o FILE.jsonl --kind timm --name cait --again
    python -m tests.benchmarks.families -o FILE.jsonl --table docs/families.md

Random weights, magnitude-l2 over the whole net, no training. Each net runs in a process of its own with a limit on
time and memory. `families_nets.json` lists the nets with the image size each is run at; `--choose` makes it anew.

Columns: the speed-up got; the share of convolutions and linear layers that got narrower; whether the MACs and
parameters counted on the cut net are those predicted; the largest difference between the cut net and the dense one
with the removed channels at zero, relative to the largest output, with norms over channels or without them, whichever
is smaller (none: a softmax or mean over channels sees the zeros too); CPU seconds of tracing and of everything; why a
net was refused.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import resource
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from raybench import registry
from raybench.errors import RaybenchError
from raybench.groups import surgery
from raybench.groups.attention import plainly
from raybench.groups.cost import count_macs
from raybench.groups.layer_types import CONVOLUTIONS, is_frozen, is_norm
from raybench.groups.records import Groups
from raybench.groups.trace import trace
from raybench.scoring.scorer import Scoring
from raybench.selection.select import select
from tests.oracles.grouping import silence

TARGET = 1.5
CLOSE = 0.995  # of the asked speed-up
NETS = Path(__file__).with_name("families_nets.json")
KINDS = ("timm", "classification", "segmentation", "video", "detection")
SIZES = (64, 96, 128, 160, 192)  # pixels to try for nets that take any size
COLUMNS = {
    "family": "family", "net": "net", "size": "size", "speedup": "speed-up", "narrower": "narrower",
    "exact": "counts", "difference": "difference", "trace_s": "trace s", "seconds": "s", "reason": "reason",
}  # fmt: skip


def main() -> None:
    """Parse, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("families.jsonl"), help="one JSON line a net")
    parser.add_argument("--kind", action="append", choices=KINDS, help="run these alone")
    parser.add_argument("--name", action="append", help="run the families or nets whose name holds this alone")
    parser.add_argument("--again", action="store_true", help="run what the file holds once more")
    parser.add_argument("--seconds", type=int, default=60, help="CPU seconds that each net may take")
    parser.add_argument("--gigabytes", type=int, default=6, help="memory limit for each net")
    parser.add_argument("--jobs", type=int, default=1, help="nets at a time")
    parser.add_argument("--table", type=Path, help="write the table into this Markdown file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asked = [net for net in json.loads(NETS.read_text()) if wanted(net, arguments.kind, arguments.name)]
    done = {} if arguments.again else rows_of(arguments.out)
    missing = [net for net in asked if key(net) not in done]
    with ThreadPoolExecutor(arguments.jobs) as pool, arguments.out.open("a") as file:
        for row in pool.map(lambda net: apart(net, arguments.seconds, arguments.gigabytes), missing):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(line(row), flush=True)
    rows = rows_of(arguments.out)
    found = [rows[key(net)] for net in asked if key(net) in rows]
    print(*summary(found), sep="\n")
    if arguments.table:
        arguments.table.write_text(document(found))


def wanted(net: Mapping[str, Any], kinds: Sequence[str] | None, names: Sequence[str] | None) -> bool:
    """Whether the command line asks for this net."""
    in_kind = not kinds or net["kind"] in kinds
    return in_kind and (not names or any(name in net["net"] or name == net["family"] for name in names))


def key(net: Mapping[str, Any]) -> tuple[str, str]:
    """What a net is told by: timm and torchvision use some names both."""
    return net["kind"], net["net"]


def rows_of(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last row of each net that `file` holds."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {key(row): row for row in map(json.loads, lines)}


def apart(net: dict[str, Any], seconds: int, gigabytes: int) -> dict[str, Any]:
    """The row of one net, measured in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(net, seconds, gigabytes, there), daemon=True)
    child.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        child.join()
        late = child.exitcode == -signal.SIGXCPU
        reason = f"stopped after {seconds} CPU seconds" if late else f"its process died with {child.exitcode}"
        return net | {"pruned": False, "reason": reason}
    finally:
        child.join()


def _child(net: dict[str, Any], seconds: int, gigabytes: int, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (gigabytes << 30, gigabytes << 30))
    started = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            row = measured(net)
        row["warnings"] = [str(one.message)[:300] for one in warned if issubclass(one.category, UserWarning)][:6]
    except RaybenchError as error:
        row = {"pruned": False, "reason": str(error)}
    except Exception as error:
        row = {"pruned": False, "crashed": True, "reason": f"{type(error).__name__}: {error}"}
    row["reason"] = " ".join(row["reason"].split())[:600]
    pipe.send(net | row | {"seconds": round(time.process_time() - started, 1)})


def measured(net: Mapping[str, Any]) -> dict[str, Any]:
    """Trace, select, cut and check one net."""
    torch.manual_seed(0)
    model, example = built(net), image(net)
    started = time.process_time()
    groups = trace(model, example)
    traced = time.process_time() - started
    scoring = Scoring(registry.importance.load("magnitude-l2")(), model)
    cut = select(scoring, example, groups, [TARGET], schedule="one-shot")[TARGET]
    slim = copy.deepcopy(model)
    surgery.apply(slim, groups, cut.kept)
    counted = count_macs(slim, example), sum(p.numel() for p in slim.parameters())
    reached = counted[0] * TARGET * CLOSE <= cut.macs_base
    far = difference(model, slim.eval(), groups, cut.kept, example)
    total([slim.train()(torch.cat([example, example.flip(-1)]))]).backward()
    return {
        "speedup": round(cut.macs_base / counted[0], 3),
        "pruned": reached and counted == (cut.macs, cut.params),
        "narrower": round(narrower(model, slim), 3),
        "exact": counted == (cut.macs, cut.params),
        "difference": far,
        "groups": len(groups),
        "trace_s": round(traced, 1),
        "reason": cut.reason if not reached else "",
    }


def built(net: Mapping[str, Any]) -> nn.Module:
    """The network with random weights, norms' scales drawn (equal ones are ties), in eval mode."""
    if net["kind"] == "timm":
        model = timm.create_model(net["net"])
    else:
        aux = net["net"] in ("googlenet", "inception_v3")  # their heads for training run in no test
        own = {"init_weights": True, "aux_logits": False} if aux else {}
        backbone = {"weights_backbone": None} if net["kind"] in ("segmentation", "detection") else {}
        model = torchvision.models.get_model(net["net"], weights=None, **own, **backbone)
    if net["kind"] == "detection":
        model = Body(model)
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not bool(parameter.any()):  # a head of zeros: all outputs would be equal
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def image(net: Mapping[str, Any]) -> Tensor:
    """One image, or one clip, as the net takes it."""
    frames = (net["frames"],) if net["kind"] == "video" else ()
    return torch.randn(1, 3, *frames, net["size"], net["size"], generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    """A detector of torchvision without resizing, anchors and post-processing: backbone and dense heads."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, x: Tensor) -> list[Tensor]:
        return tensors(self.head(list(self.backbone(x).values())))


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output."""
    if isinstance(output, Tensor):
        return [output]
    inner = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for one in inner for tensor in tensors(one)]


def total(output: Any) -> Tensor:
    """The sum of all outputs."""
    return torch.stack([t.float().mean() for t in tensors(output) if t.is_floating_point()]).sum()


def narrower(dense: nn.Module, slim: nn.Module) -> float:
    """The share of convolutions and linear layers whose weights lost a part."""
    kinds = (*CONVOLUTIONS, nn.Linear)
    layers = {n: m for n, m in dense.named_modules() if isinstance(m, kinds)}
    less = [n for n, m in layers.items() if slim.get_submodule(n).weight.shape != m.weight.shape]
    return len(less) / len(layers)


def difference(
    model: nn.Module, slim: nn.Module, groups: Groups, kept: Mapping[str, Sequence[int]], example: Tensor
) -> float | None:
    """How far the cut net is from the dense one with the removed channels at zero, relative to the largest output."""
    zeroed = copy.deepcopy(model)
    for group in groups:
        gone = sorted(set(range(group.size)).difference(kept[group.name]))
        for member in group.members:
            silence(zeroed, member, gone)
    found = [_far(slim, zeroed, example)]
    with _WithoutChannelNorms(zeroed), _WithoutChannelNorms(slim):  # where they see zeroed channels
        found.append(_far(slim, zeroed, example))
    finite = [far for far in found if math.isfinite(far)]
    return float(f"{min(finite):.1e}") if finite else None


def _far(slim: nn.Module, zeroed: nn.Module, example: Tensor) -> float:
    with plainly(zeroed), plainly(slim), torch.no_grad():
        left, right = (torch.cat([t.float().flatten() for t in tensors(net(example))]) for net in (slim, zeroed))
    scale = float(right.abs().max())
    return float((left - right).abs().max()) / scale if scale else float("nan")


class _WithoutChannelNorms:
    """Inside, norms over channels return their input: they see zeroed channels, so nothing could be compared."""

    def __init__(self, model: nn.Module) -> None:
        batch = nn.modules.batchnorm._BatchNorm
        self.norms = [m for m in model.modules() if is_norm(m) and not is_frozen(m) and not isinstance(m, batch)]

    def __enter__(self) -> None:
        for norm in self.norms:
            norm.forward = lambda x, *_, **__: x

    def __exit__(self, *_: object) -> None:
        for norm in self.norms:
            del norm.forward


def line(row: Mapping[str, Any]) -> str:
    """A row as one line of text."""
    state = "pruned" if row["pruned"] else "CRASHED" if row.get("crashed") else "REFUSED"
    numbers = " ".join(f"{k}={row[k]}" for k in ("speedup", "narrower", "exact", "difference", "seconds") if k in row)
    return f"{state:8}{row['kind']}:{row['net']} {row['size']}px {numbers} {row['reason']}".rstrip()


def summary(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each kind: how many reach the speed-up."""
    for kind in KINDS:
        here = [row for row in rows if row["kind"] == kind]
        if here:
            good = [row for row in here if row["pruned"]]
            wide = sum(row["narrower"] >= 0.8 for row in good)
            yield f"{kind}: {len(good)} of {len(here)} reach {TARGET}x, {wide} with at least 80 % of layers narrower"


def document(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page docs/families.md."""
    parts = [
        "# Families of networks",
        "",
        f"Printed by `python -m tests.benchmarks.families` with timm {timm.__version__}, torchvision "
        f"{torchvision.__version__.partition('+')[0]} and torch {torch.__version__.partition('+')[0]}: the smallest "
        f"net of each of timm's modules and every net of torchvision, cut to {TARGET}x with random weights. "
        "[Its first lines](../tests/benchmarks/families.py) say what the columns hold.",
        "",
        *(f"- {text}" for text in summary(rows)),
    ]
    for kind in KINDS:
        here = [row for row in rows if row["kind"] == kind]
        if here:
            parts += ["", f"## {'timm' if kind == 'timm' else f'torchvision, {kind}'}", ""]
            parts += ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
            parts += ["| " + " | ".join(_cell(row.get(key)) for key in COLUMNS) + " |" for row in here]
    return "\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "as predicted" if value else "WRONG"
    return str(value).replace("|", "\\|")[:200]


if __name__ == "__main__":
    main()
