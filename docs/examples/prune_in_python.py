"""Prune a ResNet-18 in Python: no sweep, no storage, no data. Random weights here; load your own in their place.

python docs/examples/prune_in_python.py
"""

import torch
import torchvision

import raybench


def main() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    example = torch.randn(1, 3, 64, 64)  # one image, of the size that the network will see

    print(f"{'criterion':<14}{'speed-up':>9}{'MACs':>18}{'parameters':>18}")
    for criterion, speedup in [("magnitude-l2", 2), ("magnitude-l2", 4), ("lamp", 4)]:
        pruned = raybench.prune(model, example, speedup=speedup, criterion=criterion)
        macs = f"{pruned.macs_base / 1e6:.1f} -> {pruned.macs / 1e6:.1f} M"
        params = f"{pruned.params_base / 1e6:.2f} -> {pruned.params / 1e6:.2f} M"
        print(f"{criterion:<14}{pruned.speedup:>8.2f}x{macs:>18}{params:>18}")

    # Criteria that look at gradients or activations take images, normalised as in training, and their labels.
    images, labels = torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,))
    pruned = raybench.prune(
        model, example, speedup=2, criterion="taylor", calibration=(images, labels), schedule="one-shot"
    )
    kept = {name: len(units) for name, units in pruned.kept.items()}
    print(f"taylor keeps these numbers of channels: {kept}")

    # The result is an ordinary module: fine-tune it with your own loop, save it, export it.
    print(f"output of the pruned network: {tuple(pruned.model(images).shape)}")


if __name__ == "__main__":
    main()
