"""The parts of the check, the most precious first, with what each needs. Imports nothing of theirs."""

from __future__ import annotations

from dataclasses import dataclass

TRAINING = ("torch", "pydantic")
PLAIN_LOOP = (*TRAINING, "torchvision", "PIL")
PLANNED = (*TRAINING, "yaml", "pyarrow", "sklearn")
CELLS = (*PLANNED, "torch_pruning", "timm", "safetensors")
# what pip calls a module
DISTRIBUTIONS = {"yaml": "PyYAML", "sklearn": "scikit-learn", "torch_pruning": "torch-pruning", "PIL": "pillow"}


@dataclass(frozen=True)
class Part:
    """Lines that belong together."""

    where: str  # module:function, which yields lines for (device, quick)
    needs: tuple[str, ...]  # modules
    limit_s: float  # after which its process is killed and the next part begins in another one; imports may be cold


PARTS: dict[str, Part] = {
    "device": Part("tests.gpu.card:card", ("torch",), 120),
    "products": Part("tests.gpu.card:products", ("torch",), 90),
    "graphs": Part("tests.gpu.training:graphs", TRAINING, 150),
    "cell": Part("tests.gpu.cells:one_cell", CELLS, 180),
    "resnet18": Part("tests.gpu.speed:resnet18", PLAIN_LOOP, 180),
    "resnet20": Part("tests.gpu.speed:resnet20", PLAIN_LOOP, 150),
    "vgg19": Part("tests.gpu.speed:vgg19", PLAIN_LOOP, 150),
    "formats": Part("tests.gpu.training:formats", TRAINING, 90),
    "resume": Part("tests.gpu.training:resume", TRAINING, 90),
    "memory": Part("tests.gpu.training:memory", TRAINING, 90),
    "precisions": Part("tests.gpu.training:precisions", TRAINING, 150),
    "compiled-resnet18": Part("tests.gpu.speed:compiled_resnet18", PLAIN_LOOP, 240),
    "compiled-vgg19": Part("tests.gpu.speed:compiled_vgg19", PLAIN_LOOP, 240),
    "compiled-resnet20": Part("tests.gpu.speed:compiled_resnet20", PLAIN_LOOP, 240),
    "grid": Part("tests.gpu.speed:whole_grid", (*PLAIN_LOOP, "torch_pruning", "yaml", "pyarrow"), 240),
    "copies": Part("tests.gpu.speed:copies", PLANNED, 300),
    "quickstart": Part("tests.gpu.cells:quickstart", CELLS, 400),
}
