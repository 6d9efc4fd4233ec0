"""A criterion of your own, used in Python. The same file is a plug-in for sweeps.

python docs/examples/own_criterion.py
python -m raybench.testing.conformance docs/examples/own_criterion.py
raybench run SWEEP --plugin docs/examples/own_criterion.py      # with `weight-spread` among the sweep's methods
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import raybench
from raybench.methods.protocols import Importance, Layer
from raybench.registry import importance


@importance("weight-spread")
@dataclass(frozen=True)
class WeightSpread(Importance):
    """Standard deviation of a channel's weights, to a power: a flat filter does little more than average."""

    power: float = 1.0

    needs = "weights"
    version = 1
    paper = "an example"

    def layer_scores(self, layer: Layer) -> Tensor | None:
        """(channels,); None for layers with a single weight a channel, such as batch norms."""
        weights = layer.weight.flatten(1)  # dimension 0 runs over the channels
        return weights.std(1) ** self.power if weights.shape[1] > 1 else None


def network() -> nn.Sequential:
    """Four convolutions and a classifier, with random weights; any network of yours will do."""
    layers: list[nn.Module] = []
    for inputs, outputs in [(3, 32), (32, 64), (64, 128), (128, 128)]:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, stride=2), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 2 * 2, 10))


def main() -> None:
    torch.manual_seed(0)
    model = network().eval()
    example = torch.randn(1, 3, 32, 32)  # one image
    pruned = {
        "weight-spread": raybench.prune(model, example, speedup=2, criterion=WeightSpread()),
        "magnitude-l2": raybench.prune(model, example, speedup=2, criterion="magnitude-l2"),
    }
    print("channels kept  " + "".join(f"{name:>15}" for name in pruned))
    for layer in pruned["weight-spread"].kept:
        print(f"convolution {layer:<3}" + "".join(f"{len(result.kept[layer]):>15}" for result in pruned.values()))
    print("speed-up       " + "".join(f"{result.speedup:>15.3f}" for result in pruned.values()))


if __name__ == "__main__":
    main()
